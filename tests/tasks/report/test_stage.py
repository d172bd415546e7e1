"""The page from drawn results of the other stages: what it shows, what it must not, and the figures beside it."""

import base64
import io
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from tasks import image_set
from tasks.errors import UserError
from tasks.files import flattened
from tasks.params import Imbalance, Params
from tasks.report import charts, gallery, page, stage, verdict
from tasks.report.gates import ENDS
from tasks.shown.numbers import number, percent, signed
from tasks.tracking import provenance, runs
from tests.tasks.results import ALARM, ARMS, GANS, write_results

PARAMS = Params()
HOSTILE = """<script>document.title='owned'</script><img src=x onerror=alert(1)>"'&"""
INLINE = {"a", "b", "code", "i", "small", "span"}
PASSED = {"mean": 0.1, "low": 0.05, "high": 0.15}
GATES = {
    "memorisation": {"passed": True, "why": "3 of 30 images were removed.", "label": "rare"},
    "diversity": {"passed": False, "why": f"Less varied than real films {HOSTILE}.", "label": "rare"},
    "fidelity": {"passed": True, "why": "Recognised.", "label": "rare"},
}


@dataclass
class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += "" if tag in INLINE else " "

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def parsed(html: str) -> Parsed:
    result = Parsed()
    result.feed(html)
    result.text = " ".join(result.text.split())
    return result


def outputs(folder: Path) -> stage.Outputs:
    return stage.Outputs(
        *(folder / name for name in ("report.html", "verdict.json", "metrics.json", "measures.json", "plots"))
    )


def hide_names(folder: Path) -> None:
    """Identifiers that cannot be there by chance."""
    manifest = pd.read_csv(folder / "manifest.csv")
    for column in ("image_id", "patient_id"):
        manifest[column] = [f"CANARY{column}{k}" for k in range(len(manifest))]
    manifest.to_csv(folder / "manifest.csv", index=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all inputs, and the outputs in `out`; hostile words where results have words."""
    folder = tmp_path_factory.mktemp("report")
    inputs = write_results(folder)
    hide_names(folder / "curated")
    found = json.loads(inputs.downstream.read_text())
    found["confounds"]["warnings"].append(HOSTILE)
    inputs.downstream.write_text(json.dumps(found))
    curated = json.loads((folder / "curated/dataset.json").read_text())
    curated["losses"] = {"normal": {"lateral_view": 3, "duplicate": 1}, "rare": {"no_film": 2}}
    (folder / "curated/dataset.json").write_text(json.dumps(curated))
    decide = verdict.decide
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # By its whole path: within a process MLflow takes the first mlflow.db for all of that name.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv(runs.PIPELINE_VARIABLE, "one-execution")
        patch.setattr("tasks.report.stage.decide", lambda *facts: {**decide(*facts), "gates": GATES})  # hostile words
        stage.run(inputs, outputs(folder / "out"), PARAMS)
        yield folder


@pytest.fixture(scope="module")
def shown(made: Path) -> Parsed:
    return parsed((made / "out/report.html").read_text())


def test_the_page_loads_nothing(shown: Parsed) -> None:
    sources = [attributes["src"] for tag, attributes in shown.tags if "src" in attributes]
    assert len(sources) > 40
    assert all(source is not None and source.startswith("data:image/") for source in sources)
    assert [attributes["href"] for attributes in shown.all("link")] == ["data:,"]
    assert all(str(attributes["href"]).startswith("#") for attributes in shown.all("a"))
    policy = next(a["content"] for a in shown.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_link_inside_has_its_place(shown: Parsed) -> None:
    places = {attributes.get("id") for _, attributes in shown.tags}
    assert {str(attributes["href"])[1:] for attributes in shown.all("a")} <= places


def test_what_comes_from_data_is_escaped(made: Path, shown: Parsed) -> None:
    assert len(shown.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in shown.tags)
    assert shown.text.count("document.title='owned'") == 3  # both places of the warning, and the gate
    assert HOSTILE not in (made / "out/report.html").read_text()


def test_no_identifier_is_on_the_page(made: Path) -> None:
    for path in (path for path in (made / "out").rglob("*") if path.is_file()):
        assert "CANARY" not in path.read_text()


def test_the_page_says_what_was_found(made: Path, shown: Parsed) -> None:
    downstream = json.loads((made / "reports/downstream.json").read_text())
    assert json.loads((made / "out/verdict.json").read_text())["sentence"] in shown.text
    assert (
        "0.045 against two_stage_classic, 0.045 against duplicate, 0.045 against classic, not known against real"
        in shown.text
    )
    assert "Memorisation: passed" in shown.text
    assert "Diversity: not passed" in shown.text
    assert "Class fidelity: passed" in shown.text
    assert "Validation still gained when classify.max_cycles ended the training of classic+msg_sagan." in shown.text
    assert "classic+msg_sagan real films and msg_sagan's images of every class, classical augmentation" in shown.text
    converged = shown.text.split("Were they trained to the end?")[1]
    assert all(f"{arm}: " in converged for arm in ARMS)
    for name, found in ((name, downstream["fidelity"][name]["rare"]) for name in GANS):
        value, floor = ([percent(found[key], 0) for key in keys] for keys in ENDS)
        row = f"rare {name} {value[0]} ({value[1]} to {value[2]}) {floor[0]} ({floor[1]} to {floor[2]})"
        assert f"{row} 4 % {', '.join(f'{other} 2 %' for other in found['confused'])}" in shown.text
    for values in downstream["arms"].values():
        assert page.figure(values["rare_auprc"]) in shown.text
        assert page.figure(values["brier"]) in shown.text
    for name in GANS:
        quality = json.loads((made / f"reports/quality/{name}.json").read_text())
        for measure, found in quality["classes"]["rare"]["measures"].items():
            assert f"{page.WORDS[measure][0]} {number(found['value'])}" in shown.text
        screening = json.loads((made / f"synthetic/{name}/dataset.json").read_text())["screening"]
        assert f"{percent(screening['false_alarms'])} are called copies" in shown.text
        for pair in screening["worst"]:
            assert f"{pair['signal']} {number(pair['score'])}" in shown.text
    assert "no confidence interval, but the lowest and the highest value over 10 random divisions" in shown.text
    assert "A value better than the floor is not better than real" in shown.text
    assert "changes too small to be seen reliably" in shown.text
    assert "Not looked at, as not known to differ between enough films: source, sex, age group." in shown.text
    assert "Copies: calibrated on 60 held-out films: too few to count a share of 1 % among them." in shown.text
    assert ALARM in shown.text
    assert "The collapse guard raised no alarm" in shown.text
    assert image_set.load(made / "curated").digest in shown.text
    assert "one-execution" in shown.text


def test_what_each_class_has_lost_is_on_the_page(shown: Parsed) -> None:
    assert (
        "Lost by class (no_film: an entry of the labels whose film is not there): normal 3 lateral_view, 1 duplicate; "
        "rare 2 no_film."
    ) in shown.text


def test_that_a_generator_learnt_from_simulated_films_before_stands_beside_the_verdict(shown: Parsed) -> None:
    assert "Head start: msg_sagan learnt from simulated films before this run" in shown.text
    assert "Simulated films" not in shown.text


def test_it_has_the_pictures(shown: Parsed) -> None:
    words = [str(attributes["alt"]) for attributes in shown.all("img")]
    pairs = [word for word in words if re.fullmatch(r"Synthetic image \d+", word)]
    assert len(pairs) == words.count("Its nearest train film") > 0
    for expected in (
        "Power spectra of rare",
        "ROC curves of rare",
        "precision–recall curves of rare",
        "Attention maps of msg_sagan",
    ):
        assert any(expected in word for word in words), expected
    assert sum("MS-SSIM of pairs over training" in word for word in words) == len(GANS)
    assert "Attention maps of msg_gan" not in words
    assert all(words)


def test_its_sentences_are_short(made: Path) -> None:
    """Those of paragraphs, the verdict in full among them; a colon ends one too."""
    html = (made / "out/report.html").read_text()
    paragraphs = [parsed(found).text for found in re.findall(r"<p\b[^>]*>(.*?)</p>", html, re.DOTALL)]
    sentences = [words.split() for paragraph in paragraphs for words in re.split(r"(?<=[.?!:])\s", paragraph)]
    assert len(sentences) > 40
    assert [" ".join(words) for words in sentences if len(words) > 25] == []


def test_beside_each_gate_stands_the_picture_that_shows_it(made: Path) -> None:
    """Of the class that decided, and of the candidate's generator: those images that the other stages named."""
    page = parsed((made / "out/report.html").read_text())
    drawn = image_set.load(made / "synthetic/msg_sagan").where(label="rare").images
    worst = json.loads((made / "synthetic/msg_sagan/dataset.json").read_text())["screening"]["worst"]
    place = [pair["label"] for pair in worst].index("rare")
    assert place > 0
    first = np.load(made / "synthetic/msg_sagan/worst_pairs.npy")[place]
    shown = [(picture["alt"], picture["src"]) for picture in page.all("img")][:10]
    assert shown[:2] == [
        ("Synthetic image of rare", gallery.film(first[0])),
        ("The train film of rare nearest to it", gallery.film(first[1])),
    ]
    assert shown[2:4] == [(f"Synthetic image {k} of rare", gallery.film(drawn[k - 1])) for k in (1, 3)]
    taken_for = ["rare", "rare (1), common (1)"] * 3
    assert shown[4:] == [
        (f"Synthetic image of rare, taken for {words}", gallery.film(drawn[k])) for k, words in enumerate(taken_for)
    ]
    assert "taken for a copy and removed" in page.text
    assert "The two most alike synthetic images of rare: MS-SSIM 0.93." in page.text


def test_a_gate_that_was_not_measured_has_no_picture() -> None:
    gates = {"diversity": {"passed": False, "why": "Not measured.", "label": ""}}
    nothing = image_set.ImageSet(np.zeros((0, 8, 8), np.uint8), pd.DataFrame({"label": []}), [], "")
    assert gallery.of_gates(gates, nothing, [], {}, {}) == {}


def test_the_blind_strip_works_without_its_script(shown: Parsed) -> None:
    films = [attributes for attributes in shown.all("li") if attributes.get("class") == "film"]
    truths = [attributes["data-truth"] for attributes in films]
    assert len(films) == PARAMS.report.blind
    assert {"real", "synthetic"} == set(truths)
    answering = [attributes for attributes in shown.all("button") if attributes.get("class") != "zoom"]
    assert answering
    assert all("hidden" in attributes for attributes in answering)  # the script shows them
    answers = shown.text.split("Answers ")[1]
    for k, truth in enumerate(truths, start=1):
        said = answers.split(f"{k}: ")[1].split(";")[0].split(".")[0]
        assert (said == "real") == (truth == "real")


def pixels(uri: str) -> bytes:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L")).tobytes()


def test_the_blind_strip_says_the_truth_and_keeps_its_order(made: Path) -> None:
    real = image_set.load(made / "curated").where(split="train")
    synthetic = {name: image_set.load(made / "synthetic" / name) for name in GANS}
    strip = gallery.blind(real, synthetic, ["rare"], 12, seed=0)["rare"]
    sets = {"real": real, **synthetic}
    for film in strip:
        assert pixels(film["picture"]) in {image.tobytes() for image in sets[film["truth"]].images}
    assert strip == gallery.blind(real, synthetic, ["rare"], 12, seed=0)["rare"]
    counts = {
        sum(f["truth"] == "real" for f in gallery.blind(real, synthetic, ["rare"], 12, k)["rare"]) for k in range(12)
    }
    assert len(counts) > 2  # not to be found by counting
    assert {0, 12}.isdisjoint(counts)


def test_metrics_are_the_few_that_matter_of_the_worst_class(made: Path) -> None:
    found = json.loads((made / "out/metrics.json").read_text())
    downstream = json.loads((made / "reports/downstream.json").read_text())
    assert len(list(flattened(found))) == 11
    areas = [downstream["arms"][arm]["rare_auprc"]["mean"] for arm in ("msg_sagan", "two_stage_classic")]
    assert list(found["rare_auprc"].values()) == areas
    assert found["difference"] == downstream["comparison"]["differences"]["msg_sagan"]["two_stage_classic"]
    recognised = downstream["fidelity"]["msg_sagan"]["rare"]
    assert found["recognised"] == {"synthetic": recognised["value"], "real": recognised["floor"]}
    classes = json.loads((made / "reports/quality/msg_sagan.json").read_text())["classes"].values()
    assert found["two_sample_auroc"] == max(entry["measures"]["two_sample_auroc"]["value"] for entry in classes)
    gates = json.loads((made / "out/verdict.json").read_text())["gates"].values()
    assert found["gates_passed"] == sum(gate["passed"] for gate in gates)


def test_measures_have_the_figures_of_the_contract(made: Path) -> None:
    found = json.loads((made / "out/measures.json").read_text())
    downstream = json.loads((made / "reports/downstream.json").read_text())
    quality = json.loads((made / "reports/quality/msg_gan.json").read_text())
    assert found["imbalance_ratio"] == 4.0
    for measure in stage.MEASURES:
        assert found[measure] == {arm: downstream["arms"][arm][measure]["mean"] for arm in ARMS}
    assert found["minimum_effect"] == {"two_stage_classic": 0.045, "duplicate": 0.045, "classic": 0.045, "real": None}
    value = quality["classes"]["rare"]["measures"]["coverage"]["value"]
    assert found["quality"]["msg_gan"]["rare"]["coverage"] == value
    recognised = downstream["fidelity"]["msg_gan"]["rare"]
    assert found["fidelity"]["msg_gan"]["rare"] == {"value": recognised["value"], "floor": recognised["floor"]}


def test_mlflow_has_them_too_and_the_page(made: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{made}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string=f"name = '{runs.EXPERIMENT}'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'report'")
    assert run.data.tags["stage"] == "report"
    assert run.data.tags["verdict"] == "no evidence"
    found = json.loads((made / "out/measures.json").read_text())
    assert run.data.metrics["rare_auprc/classic_and_msg_sagan"] == found["rare_auprc"]["classic+msg_sagan"]
    assert run.data.metrics["fidelity/msg_sagan.rare.value"] == found["fidelity"]["msg_sagan"]["rare"]["value"]
    assert run.data.metrics["quality/msg_gan.rare.coverage"] == found["quality"]["msg_gan"]["rare"]["coverage"]
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"report.html", "verdict.json"}


def test_the_curves_of_dvc_are_those_of_the_page(made: Path) -> None:
    downstream = json.loads((made / "reports/downstream.json").read_text())
    for kind, (x, y) in stage.AXES.items():
        table = pd.read_csv(made / f"out/plots/{kind}.csv")
        assert set(table["arm"]) == set(ARMS)
        of_arm = table[(table["arm"] == "duplicate") & (table["class"] == "rare")]
        expected = downstream["curves"]["duplicate"]["rare"][kind]
        assert of_arm[x].tolist() == expected["x"]
        assert of_arm[y].tolist() == expected["mean"]
    ece = pd.read_csv(made / "out/plots/ece.csv").set_index("arm")
    assert ece.loc["classic", "ece"] == downstream["arms"]["classic"]["ece"]["mean"]
    change = pd.read_csv(made / "out/plots/differences.csv").set_index("change").loc["two_stage_msg_gan − duplicate"]
    assert change.to_dict() == downstream["comparison"]["differences"]["two_stage_msg_gan"]["duplicate"]
    counts = pd.read_csv(made / "out/plots/counts.csv").set_index(["when", "class"])
    screening = json.loads((made / "synthetic/msg_sagan/dataset.json").read_text())["screening"]["classes"]["rare"]
    assert counts.loc[("after", "rare"), "synthetic"] == screening["drawn"] - screening["removed"]


def test_without_rare_classes_there_is_a_page(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No synthetic images, no limits to screen by, no comparison, no reading of the guard, no known confound."""
    inputs = write_results(tmp_path, params=Imbalance(rare_below=0.01))
    found: dict[str, Any] = json.loads(inputs.downstream.read_text())
    del found["comparison"]
    unseen = {"warnings": [], "looked_at": [], "not_known": ["view", "sex"], "groups": []}
    found |= {"sweeps": {"ratio": [], "real_fraction": []}, "tstr": [], "confounds": unseen}
    found["fidelity"] = {name: {} for name in GANS}
    inputs.downstream.write_text(json.dumps(found))
    for folder in inputs.synthetic.values():
        facts = json.loads((folder / "dataset.json").read_text())
        few = "copies: 3 held-out films are too few"
        facts["screening"] |= {"note": few, "false_alarms": None, "threshold": {"detail": 0.95}, "worst": []}
        (folder / "dataset.json").write_text(json.dumps(facts))
    for folder in inputs.models.values():
        pd.read_csv(folder / "history.csv", usecols=["kimg", "seconds", "loss_generator", "loss_discriminator"]).to_csv(
            folder / "history.csv", index=False
        )
    assert stage.run(inputs, outputs(tmp_path / "out"), PARAMS)["verdict"] == "not needed"
    text = parsed((tmp_path / "out/report.html").read_text()).text
    assert "Copies: 3 held-out films are too few." in text
    assert "false alarms" not in text
    assert "Confounds could not be looked at." in text
    assert "None of these was known to differ between enough films: view, sex." in text
    assert "No class nearly coincides" not in text
    assert "was not measured" not in text  # nothing was planned
    assert "Which is real?" not in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_where_no_confound_was_found_the_page_names_those_looked_for(tmp_path: Path, made: Path) -> None:
    inputs = write_results(tmp_path)
    found: dict[str, Any] = json.loads(inputs.downstream.read_text())
    found["confounds"]["warnings"] = []
    inputs.downstream.write_text(json.dumps(found))
    stage.run(inputs, outputs(tmp_path / "out"), PARAMS)
    text = parsed((tmp_path / "out/report.html").read_text()).text
    assert "No class nearly coincides with these: view, native size." in text
    assert "Not looked at, as not known to differ between enough films: source, sex, age group." in text


def test_leaks_and_simulated_films_stand_beside_the_verdict(tmp_path: Path, made: Path) -> None:
    inputs = write_results(tmp_path)
    manifest = pd.read_csv(inputs.curated / "manifest.csv")
    manifest.assign(simulated=["yes"] * 5 + [""] * (len(manifest) - 5)).to_csv(
        inputs.curated / "manifest.csv", index=False
    )
    found: dict[str, Any] = json.loads(inputs.downstream.read_text())
    assert "Leak:" not in (made / "out/report.html").read_text()
    found["leaked"]["test"] = 3
    inputs.downstream.write_text(json.dumps(found))
    stage.run(inputs, outputs(tmp_path / "out"), PARAMS)
    text = parsed((tmp_path / "out/report.html").read_text()).text
    assert "Leak: 3 test films are nearly equal to a train film" in text.split("Which is real?")[0]
    assert re.search(r"Simulated films: 5 of \d+ films are simulated, so this run says nothing of patients\.", text)
    assert "msg_sagan learnt from films of the same simulator before this run: no gain here counts." in text
    assert "validation films are nearly" not in text


def test_what_is_read_first_is_explained_beside_it(made: Path, shown: Parsed) -> None:
    """AUPRC and arms in a few words, that some controls have no augmentation, and all marks of the chart."""
    first = shown.text.split("Memorisation: passed")[0]
    lines, chart = first.split("What to do now")
    assert "AUPRC: area under the precision–recall curve, from 0 to 1; higher is better." in lines
    assert "two_stage_classic: as classic, after a first stage that is classic too." in lines  # the hardest to beat
    assert "msg_sagan: real films and msg_sagan's images of every class, no augmentation." in lines
    differences = json.loads((made / "out/verdict.json").read_text())["differences"]
    for control, words in page.CONTROLS.items():
        if control in differences:
            assert f"{control} {words} {signed(differences[control]['mean'])}" in chart
    assert "the control that is hardest to beat another control changes too small" in chart
    assert "may come from the augmentation" not in first  # this candidate has none either


def test_only_the_control_that_is_hardest_to_beat_is_marked(made: Path) -> None:
    decision = json.loads((made / "out/verdict.json").read_text())
    decision |= {"by_class": {"a": {"classic": PASSED}, "b": {"classic": PASSED}}}
    found = stage._compared(decision, json.loads((made / "reports/downstream.json").read_text()), page.CONTROLS)
    assert [row["name"] for row in found["forest"]["rows"] if row["marked"]] == ["two_stage_classic"]
    others = [row["name"] for row in found["others"]["rows"]]
    assert others[:3] == ["a: msg_sagan − classic", "b: msg_sagan − classic", "classic+msg_sagan − two_stage_classic"]
    assert not any(row["marked"] for row in found["others"]["rows"])


def test_the_classes_are_not_shown_one_by_one_where_there_is_one(shown: Parsed) -> None:
    assert "Change of AUPRC of other arms" in shown.text
    assert "rare: msg_sagan − classic" not in shown.text


def test_a_class_that_was_not_measured_has_its_reason(tmp_path: Path, made: Path) -> None:
    inputs = write_results(tmp_path)
    found: dict[str, Any] = json.loads(inputs.quality["msg_gan"].read_text())
    del found["classes"]["rare"]
    found["left_out"] = {"rare": "Nearly all real images are of one patient: there is no floor."}
    inputs.quality["msg_gan"].write_text(json.dumps(found))
    stage.run(inputs, outputs(tmp_path / "out"), PARAMS)
    text = parsed((tmp_path / "out/report.html").read_text()).text
    assert "msg_gan, rare, was not measured. Nearly all real images are of one patient" in text


def test_missing_and_older_results_are_named(tmp_path: Path, made: Path) -> None:
    inputs = write_results(tmp_path)
    found = json.loads(inputs.downstream.read_text())
    del found["confusion"]
    inputs.downstream.write_text(json.dumps(found))
    with pytest.raises(UserError, match="confusion"):
        stage.run(inputs, outputs(tmp_path / "out"), PARAMS)
    del found["curves"]
    inputs.downstream.write_text(json.dumps(found))
    with pytest.raises(UserError, match="curves"):
        stage.run(inputs, outputs(tmp_path / "out"), PARAMS)
    (inputs.models["msg_gan"] / "history.csv").unlink()
    with pytest.raises(UserError, match=r"history\.csv is missing; run the stages before"):
        stage.run(inputs, outputs(tmp_path / "out"), PARAMS)


def test_links_go_to_the_runs_of_the_same_execution(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real store; only the address is that of a server."""
    with runs.tracked("classify", {}, "abc") as other, runs.tracked("report", {}, "abc") as run:
        assert run.links() == {}  # of a local file there is no page
        monkeypatch.setattr(runs, "server_address", lambda: "https://mlflow.example")
        assert (
            run.links()["classify"]
            == f"https://mlflow.example/#/experiments/1/runs/{other.run_id}{runs.AS_MACHINE_LEARNING}"
        )
    monkeypatch.setenv(runs.PIPELINE_VARIABLE, "another")
    with runs.tracked("report", {}, "abc") as run:
        assert set(run.links()) == {"report"}


def test_no_password_goes_into_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://name:secret@mlflow.example:5000/base/?token=1")
    assert runs.server_address() == "https://mlflow.example:5000/base"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://name:secret@db.example/mlflow")
    assert runs.server_address() == ""


def test_provenance_knows_changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_revision() == ""
    (tmp_path / "params.yaml").write_text("a: 1\n")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *command], check=True)
    revision = provenance.git_revision()
    assert len(revision) == 40
    (tmp_path / "dvc.lock").write_text("made by a run: no change of the code\n")
    assert provenance.git_revision() == revision
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/new.py").write_text("A = 1\n")  # imported as well as any other, and in no commit
    assert provenance.git_revision() == f"{revision}, with changes that are not committed"
    assert provenance.git_revision(("model",)) == revision
    subprocess.run(["git", "config", "status.showUntrackedFiles", "no"], check=True)
    assert provenance.git_revision() == f"{revision}, with changes that are not committed"
    (tmp_path / ".gitignore").write_text("new.py\n")
    assert provenance.git_revision() == revision
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert provenance.git_revision() == f"{revision}, with changes that are not committed"


def test_the_lock_digest_is_of_what_the_page_was_made_from(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    assert provenance.locked(lock) == {}
    ingest = "stages:\n  ingest:\n    outs:\n    - {path: data/curated, md5: %s}\n"
    lock.write_text(ingest % "aa.dir")
    first = provenance.locked(lock)
    assert first["outs"] == {"data/curated": "aa.dir"}
    lock.write_text(ingest % "aa.dir" + "  report:\n    outs:\n    - {path: reports/report.html, md5: cc}\n")
    assert provenance.locked(lock) == first
    lock.write_text(ingest % "bb.dir")
    assert provenance.locked(lock)["digest"] != first["digest"]


def test_places_on_an_axis() -> None:
    chart = charts.chart(
        [("a", {"mean": 0.1, "low": 0.0, "high": 0.2}), ("b", {"mean": None, "low": None, "high": None})],
        zones={"a": 0.3},
        zero=True,
    )
    first, second = chart["rows"]
    assert chart["zero"] == pytest.approx(50, abs=0.01)  # the zone makes the axis symmetric
    assert first["line"][0] == chart["zero"]
    assert first["zone"][0] < first["line"][0] < first["dot"] < first["line"][1] < first["zone"][1]
    assert "dot" not in second
    assert {tick["text"] for tick in chart["ticks"]} >= {"0", "0.15", "−0.15"}


def test_measures_that_lie_far_apart_get_a_logarithmic_axis() -> None:
    damaged = {"blurred": 3.0, "noisy": 30.0, "one_image": 300.0}
    found = charts.beside({"value": 30.0, "low": None, "high": None, "floor": 0.3, "damaged": damaged})
    assert found["log"]
    (blurred, _), (noisy, _), _ = found["damaged"]
    assert found["dot"] == noisy
    assert blurred - found["floor"] == pytest.approx(found["dot"] - blurred, abs=0.1)
    assert not charts.beside({"value": -1.0, "low": -2.0, "high": 0.0, "floor": 0.3, "damaged": damaged})["log"]


def test_letters_that_would_lie_on_each_other_stand_together() -> None:
    damaged = {"noisy": 1.0, "blurred": 0.999, "slightly_noisy": 0.7, "grid": 1.0, "one_image": 0.98}
    found = charts.beside({"value": 0.9, "low": 0.8, "high": 0.95, "floor": 0.5, "damaged": damaged})
    places, names = zip(*found["damaged"], strict=True)
    assert names == (["slightly_noisy"], ["one_image", "blurred", "noisy", "grid"])
    assert places[1] - places[0] > 20


def test_the_page_is_small_enough_for_a_mail(made: Path) -> None:
    assert (made / "out/report.html").stat().st_size < 3_000_000
