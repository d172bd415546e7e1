"use strict";
/* The blind strip: a guess shows what the film is and keeps the score. Without this script the answers are listed. */
for (const quiz of document.querySelectorAll(".quiz")) {
  const films = [...quiz.querySelectorAll(".film")];
  const score = quiz.querySelector(".score");
  const show = (film, guess) => {
    if (film.dataset.shown) return;
    const real = film.dataset.truth === "real";
    film.dataset.shown = guess === null ? "told" : (guess === "real") === real ? "right" : "wrong";
    film.querySelector(".truth").hidden = false;
    for (const button of film.querySelectorAll("button")) button.hidden = true;
    const guessed = films.filter((f) => f.dataset.shown === "right" || f.dataset.shown === "wrong");
    const right = guessed.filter((f) => f.dataset.shown === "right").length;
    score.textContent = guessed.length ? `${right} of ${guessed.length} guesses right` : "";
  };
  for (const film of films) {
    for (const button of film.querySelectorAll("button")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        show(film, button.dataset.guess);
        const next = films.find((f) => !f.dataset.shown);
        if (next) next.querySelector("button").focus({ preventScroll: true });
      });
    }
  }
  const all = quiz.querySelector(".all");
  all.hidden = false;
  all.addEventListener("click", () => films.forEach((film) => show(film, null)));
  quiz.querySelector(".answers").hidden = true;
}
/* On paper everything that can be opened is open. */
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.print")) details.open = true;
});
