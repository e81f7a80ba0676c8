"""Parameters, tables, figures and claims of a run, without a kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sslmem_utils import claims, paths, runs, versions
from sslmem_utils.errors import RunError, SpecError, StoreError
from sslmem_utils.runs import display, parameters, tables

ANNOTATIONS = {"profile": str, "n": int, "rate": float, "flag": bool, "names": list[str], "limit": int | None}
VALUES = {"profile": "quick", "n": 3, "rate": 0.5, "flag": True, "names": ["a"], "limit": None}


def namespace(**changes: object) -> dict[str, object]:
    return {"__annotations__": ANNOTATIONS, **VALUES, **changes}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """A project in a temporary folder; what is displayed is collected."""
    collected: list[dict] = []

    def collect(bundle: dict, raw: bool, **options: object) -> None:
        collected.append({**bundle, "metadata": options.get("metadata", {})})

    monkeypatch.setattr("IPython.display.display", collect)
    monkeypatch.setattr(paths, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.delenv("SSLMEM_RENDER", raising=False)
    return collected


def table() -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(3), "y": np.array([0.1234567, 2, 3], dtype=np.float32), "name": list("abc")})


# ---------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("kind", "value", "fine"),
    [
        ("int", 3, True),
        ("int", True, False),
        ("int", 3.0, False),
        ("int", "3", False),
        ("float", 3, True),
        ("float", 0.5, True),
        ("float", float("nan"), False),
        ("float", False, False),
        ("bool", False, True),
        ("bool", "true", False),
        ("bool", 1, False),
        ("str", "true", True),
        ("str", 7, False),
        ("list[int]", [1, 2], True),
        ("list[int]", [1, 2.5], False),
        ("list[int]", 1, False),
        ("list[float]", [1, 2.5], True),
        ("list[list[int]]", [[1], []], True),
        ("int | None", None, True),
        ("int", None, False),
    ],
)
def test_types_are_strict(kind: str, value: object, fine: bool) -> None:
    assert parameters.fits(kind, value) is fine


@pytest.mark.parametrize("annotation", [int, list[int], int | None, "list[int]", "int|None"])
def test_annotations_have_one_spelling(annotation: object) -> None:
    assert parameters.kind_of(annotation) in ("int", "list[int]", "int | None")


def test_a_cell_is_read_without_running_it() -> None:
    text = 'profile: str = "quick"\n# a comment\nn: int = -3  # rows\nnames: list[str] = [\n    "a",\n]  # who\n'
    found = parameters.parse_cell(text, "01_toy")
    assert list(found) == ["profile", "n", "names"]
    assert found["n"] == parameters.Parameter("n", "int", -3, "rows")
    assert found["names"] == parameters.Parameter("names", "list[str]", ["a"], "who")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n = 3", "has no type"),
        ("n: int", "not of the form"),
        ("n: int = 'three'", "a whole number"),
        ("n: int = len([])", "not a literal"),
        ("n: complex = 3", "cannot have the type"),
    ],
)
def test_a_bad_cell_is_refused(line: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parameters.parse_cell(f'profile: str = "quick"\n{line}\n', "01_toy")


def test_a_cell_needs_a_profile() -> None:
    with pytest.raises(SpecError, match="profile"):
        parameters.parse_cell("n: int = 3", "01_toy")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "-7", -7),
        ("float", "3", 3.0),
        ("float", "1e-3", 0.001),
        ("bool", "true", True),
        ("bool", "False", False),
        ("str", "007", "007"),
        ("str", "true", "true"),
        ("list[int]", "1,2", [1, 2]),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[str]", "a, b", ["a", "b"]),
        ("list[int]", "", []),
        ("int | None", "none", None),
    ],
)
def test_text_becomes_the_parameters_own_type(kind: str, text: str, value: object) -> None:
    found = parameters.from_text(parameters.Parameter("p", kind, None), text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "3.0"),
        ("int", "true"),
        ("float", "nan"),
        ("bool", "1"),
        ("bool", "yes"),
        ("list[int]", "1,x"),
        ("int", ""),
    ],
)
def test_text_of_another_type_is_refused(kind: str, text: str) -> None:
    with pytest.raises(SpecError, match="parameter 'p' must be"):
        parameters.from_text(parameters.Parameter("p", kind, None), text, "here")


def test_start_checks_the_namespace(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    assert run.params == VALUES
    assert "Profile quick" in shown[0]["text/plain"]
    with pytest.raises(SpecError, match="'n' must be a whole number"):
        runs.start("01_toy", namespace(n=3.5))
    with pytest.raises(SpecError, match="'flag' must be true or false"):
        runs.start("01_toy", namespace(flag="true"))
    with pytest.raises(SpecError, match="run the parameters cell first"):
        runs.start("01_toy", {})


def test_start_refuses_what_papermill_injected_in_vain(shown: list[dict]) -> None:
    cells = ["", "n: int = 3", "# Parameters\nn = 4\nrates = 5", "run = runs.start(...)"]
    with pytest.raises(SpecError, match="unknown parameter 'rates'; did you mean rate"):
        runs.start("01_toy", namespace(In=cells, rates=5))
    # Run again later, among other names of the session: nothing was injected, so nothing is refused
    assert runs.start("01_toy", namespace(In=["", "n: int = 3"], total=9)).params == VALUES


def test_what_the_claims_cannot_do_without_is_refused_first(shown: list[dict]) -> None:
    run = runs.start("99_toy", namespace())
    run.need("names", "a")
    run.need("n", least=3)
    with pytest.raises(SpecError, match=r"'names' must hold a, b, which its claims compare, found \['a'\]; add b"):
        run.need("names", "a", "b")
    with pytest.raises(SpecError, match="'n' must be at least 4, found 3; raise it"):
        run.need("n", least=4)


@pytest.mark.parametrize("profile", ["../other", "Quick", ""])
def test_a_profile_cannot_leave_its_folder(shown: list[dict], profile: str) -> None:
    with pytest.raises(SpecError, match="a profile is named"):
        runs.start("01_toy", namespace(profile=profile))


# ---------------------------------------------------------------- tables
def test_a_table_is_stored_with_its_origin(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    found = run.table("points", table, caption="Points")
    pd.testing.assert_frame_equal(found, table())
    sidecar = json.loads((run.folder / "points.json").read_text())
    assert sidecar["sha256"] == tables.sha256(run.folder / "points.parquet")
    assert (sidecar["notebook"], sidecar["profile"], sidecar["table"]) == ("01_toy", "quick", "points")
    assert sidecar["params"] == VALUES and sidecar["rows"] == 3 and sidecar["columns"] == ["x", "y", "name"]
    assert sidecar["result_version"] == versions.current()
    assert {"python", "torch", "numpy"} <= sidecar["versions"].keys()
    assert {"cpu", "cores", "gpu"} == sidecar["hardware"].keys()
    assert {"commit", "created", "seconds"} <= sidecar.keys()
    assert any("<figcaption>Points</figcaption>" in bundle["text/html"] for bundle in shown)


def test_a_table_is_made_once_and_is_a_table(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    run.table("points", table)
    with pytest.raises(SpecError, match="twice"):
        run.table("points", table)
    with pytest.raises(SpecError, match="DataFrame"):
        run.table("other", lambda: [1, 2])  # type: ignore[arg-type,return-value]
    with pytest.raises(SpecError, match="rows"):
        run.table("empty", lambda: table().head(0))
    with pytest.raises(SpecError, match="a table is named"):
        run.table("../points", table)


def test_a_named_index_becomes_a_column(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    assert list(run.table("points", lambda: table().set_index("name"))) == ["name", "x", "y"]


def test_pictures_must_name_their_dataset(shown: list[dict]) -> None:
    def gallery() -> pd.DataFrame:
        return pd.DataFrame({"score": [1.0, 2.0], "pixels": [np.zeros(4, np.uint8), np.ones(4, np.uint8)]})

    run = runs.start("01_toy", namespace())
    with pytest.raises(SpecError, match="pictures_of"):
        run.table("gallery", gallery)
    found = run.table("gallery", gallery, caption="Gallery", pictures_of="digits")
    assert found["pixels"][1].tolist() == [1, 1, 1, 1]
    assert "pixels" not in shown[-2]["text/html"]


def test_a_new_run_starts_with_an_empty_folder(shown: list[dict]) -> None:
    first = runs.start("01_toy", namespace())
    first.table("old", table)
    runs.start("01_toy", namespace()).table("new", table)
    assert sorted(path.name for path in first.folder.iterdir()) == ["new.json", "new.parquet"]


def rendered(monkeypatch: pytest.MonkeyPatch, **sidecar: object) -> runs.Run:
    """A run that renders results which were computed before; `sidecar` overrides fields."""
    computed = runs.start("01_toy", namespace())
    computed.table("points", table)
    target = runs.results_of("01_toy", "quick")
    target.parent.mkdir(parents=True)
    computed.folder.rename(target)
    about = json.loads((target / "points.json").read_text())
    (target / "points.json").write_text(json.dumps({**about, **sidecar}))
    monkeypatch.setenv("SSLMEM_RENDER", "1")
    return runs.start("01_toy", namespace())


def never() -> pd.DataFrame:
    raise AssertionError("computed while rendering")


def test_rendering_reads_and_never_computes(shown: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    run = rendered(monkeypatch, commit="abc123", hardware={"cpu": "Other", "cores": 8, "gpu": "H100"})
    assert run.render
    pd.testing.assert_frame_equal(run.table("points", never), table())
    text = shown[-1]["text/plain"]
    assert "committed results" in text and "commit abc123" in text and "Other, 8 cores, H100" in text
    assert "Older than the code" not in shown[-1]["text/html"]
    with pytest.raises(RunError, match=r"run `sslmem run 01 --profile quick && sslmem results export --profile quick`"):
        run.table("missing", never)


def test_older_results_say_so(shown: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(monkeypatch, result_version="views0")
    assert "Older than the code" in shown[-1]["text/html"] and "views0" in shown[-1]["text/html"]


def test_results_are_not_older_than_a_module_that_came_later() -> None:
    now = versions.current()
    assert not versions.is_older(now) and not versions.is_older(versions.version_of("views", "stats"))
    assert versions.is_older(now.replace("views", "views9")) and versions.is_older("unknown1")


def test_a_wrong_checksum_is_found(shown: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    run = rendered(monkeypatch)
    file = run.source / "points.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"does not match the checksum .*`sslmem run 01 --profile quick`"):
        run.table("points", never)


def test_a_damaged_sidecar_is_found(shown: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(monkeypatch)
    (runs.results_of("01_toy", "quick") / "points.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        runs.start("01_toy", namespace())


# ---------------------------------------------------------------- what is shown
def test_a_figure_carries_its_alt_text(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    figure = Figure()
    figure.subplots().plot([1, 2])
    run.show(figure, alt='A "line" \n <b>', caption="A  caption", name="fig-a")
    bundle = shown[-1]
    assert bundle["metadata"] == {"sslmem": {"alt": 'A "line" <b>', "caption": "A caption", "name": "fig-a"}}
    assert 'alt="A &quot;line&quot; &lt;b&gt;"' in bundle["text/html"] and display.DARK_LIGHT in bundle["text/html"]
    assert bundle["image/svg+xml"].startswith("<?xml") and bundle["text/plain"] == 'A "line" <b>'
    with pytest.raises(SpecError, match="alt text"):
        run.show(Figure(), alt=" ")


def test_data_below_a_figure_can_be_saved(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    run.table("points", table)
    run.download("points")
    markup = shown[-1]["text/html"]
    assert 'download="points.csv"' in markup and "<details" in markup
    with pytest.raises(SpecError, match="unknown table 'point'; did you mean points"):
        run.download("point")


def test_small_tables_round_and_escape() -> None:
    frame = pd.DataFrame({"<b>": [0.123456], "n": [3], "pixels": [b"123"]})
    markup = display.table_html(frame, "a < b")
    assert "0.123<" in markup and "&lt;b&gt;" in markup and "a &lt; b" in markup and "pixels" not in markup
    assert "first 20 of 1,000 rows" in display.table_html(pd.DataFrame({"x": range(1000)}))


def test_claims_are_kept_and_shown(shown: list[dict]) -> None:
    run = runs.start("01_toy", namespace())
    claim = run.claim("01.1", "It rises.", claims.measure("slope", [0.9, 1.0, 1.1], delta=0.1))
    assert claim.verdict == "supported" and "supported" in shown[-1]["text/markdown"]
    record = json.loads((run.folder / "claims.json").read_text())
    assert claims.loads(json.dumps(record["claims"])) == [claim]
    assert record["params"] == VALUES and {"commit", "hardware", "created"} <= record.keys()
    with pytest.raises(SpecError, match="twice"):
        run.claim("01.1", "It rises.", claims.measure("slope", [1.0], delta=0.1))


def test_importing_runs_is_light() -> None:
    code = "import sys, sslmem_utils.runs; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.PACKAGE.parent).returncode == 0
