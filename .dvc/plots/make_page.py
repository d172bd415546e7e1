"""Write page.html, the template of `dvc plots show`: the page with Vega in it, so that it draws without a network."""

from pathlib import Path

import vl_convert

HERE = Path(__file__).parent
VEGA_LITE = "5.21"  # of the templates beside


def main() -> None:
    page = (HERE / "page.template.html").read_text(encoding="utf-8")
    script = vl_convert.javascript_bundle(vl_version=VEGA_LITE)
    (HERE / "page.html").write_text(page.replace("{vega}", script), encoding="utf-8")


if __name__ == "__main__":
    main()
