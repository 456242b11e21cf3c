# The book from the tables and figures in results/. No experiment runs, so a fresh clone has its book in a minute:
#
#   snakemake -s workflow/book.smk --cores 1
#
# A notebook that was executed here is shown as it ran. Of any other, the page has the text, the
# code and the kept figures, and says so. With all of them executed: workflow/Snakefile first, or `make book`.
import sys
from pathlib import Path

import yaml

SCALE = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]["results_scale"]


rule book:
    # Without outputs it always runs: Sphinx knows better than Snakemake what has changed.
    input:
        # No rule makes these. Without one of them Snakemake stops and names it.
        [f"results/{SCALE}/{path.stem}.{end}" for path in sorted(Path("notebooks").glob("*.ipynb")) for end in ("csv", "json")],
    params:
        python=sys.executable,
        jupyter_book=str(Path(sys.executable).with_name("jupyter-book")),
        scale=SCALE,
    shell:
        "{params.python} workflow/pages.py --scale {params.scale} && "
        "{params.jupyter_book} build . -W -n --keep-going"
