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
    for (const button of film.querySelectorAll(".buttons button")) button.hidden = true;
    const guessed = films.filter((f) => f.dataset.shown === "right" || f.dataset.shown === "wrong");
    const right = guessed.filter((f) => f.dataset.shown === "right").length;
    score.textContent = guessed.length ? `${right} of ${guessed.length} guesses right` : "";
  };
  for (const film of films) {
    for (const button of film.querySelectorAll(".buttons button")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        show(film, button.dataset.guess);
        const next = films.find((f) => !f.dataset.shown);
        if (next) next.querySelector(".buttons button").focus({ preventScroll: true });
      });
    }
  }
  const all = quiz.querySelector(".all");
  all.hidden = false;
  all.addEventListener("click", () => films.forEach((film) => show(film, null)));
  quiz.querySelector(".answers").hidden = true;
}
/* A click on a film shows it as large as the window allows, each pixel as a square; another click, or Escape, ends it. */
const large = document.createElement("dialog");
large.className = "large";
document.body.append(large);
large.addEventListener("click", () => large.close());
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const film = button.querySelector("img");
    const fits = Math.floor(0.96 * Math.min(innerWidth / film.naturalWidth, innerHeight / film.naturalHeight));
    const picture = new Image(film.naturalWidth * Math.max(2, fits));
    picture.src = film.src;
    picture.alt = film.alt;
    large.replaceChildren(picture);
    large.showModal();
  });
}
/* On paper everything that can be opened is open. */
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.print")) details.open = true;
});
