"""Write what is made of the code and the pages.

python docs/reference.py keys           docs/keys.md
python docs/reference.py site FOLDER    the documentation as a site, with the API reference
python docs/reference.py notebook       docs/notebook.ipynb, executed again
"""

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEYS, NOTEBOOK = ROOT / "docs" / "keys.md", ROOT / "docs" / "notebook.ipynb"
# What the pages link to. In the site, all of it stands as it does here.
SITE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "cluster.yaml", "docs", "reports", "search_spaces")
HEAD = """# Keys of a study file

Every key with its type, its default and an example. `make docs` writes this page from the code. `null` as a default
means that the key is absent. A section such as `data.split` is written as a mapping. Keys of `objectives` and
`constraints` are those of each item of a list. [How to write a study file](study-file.md) explains the file as a whole.

"""


def keys_page() -> str:
    """The page with all keys, a table for each section."""
    from vae_study.config.json_schema import keys

    parts, section = [HEAD], None
    for key in keys():
        if key.name.partition(".")[0] != section:
            section = key.name.partition(".")[0]
            parts.append(f"\n## {section}\n\n| key | type | default | example | meaning |\n|---|---|---|---|---|\n")
        default = f"`{key.default}`" if key.default else "required"
        cells = f"`{key.name}`", key.type, default, f"`{key.example}`", key.meaning
        parts.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n")
    return "".join(parts).replace("\n\n\n", "\n\n")


def write_api(folder: Path) -> None:
    """The page of what `vae_study` names, from the docstrings."""
    import pdoc
    import vae_study

    # A name that is missing, or a docstring or type that cannot be read, is a warning of pdoc's.
    warnings.simplefilter("error", UserWarning)
    for name in vae_study.__all__:
        # pdoc looks into the module, where a name is only after its first use.
        setattr(vae_study, name, getattr(vae_study, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("vae_study", output_directory=folder)


def write_site(folder: Path) -> None:
    """The pages as a site that needs no server, its first page the README, and the API reference in `api`."""
    source = folder.with_name("docs-source")
    for old in (source, folder):
        shutil.rmtree(old, ignore_errors=True)
    source.mkdir(parents=True)
    for name in SITE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / {"README.md": "index.md"}.get(name, name))
    # Folders in its settings are relative to it.
    config = shutil.copy(ROOT / "docs" / "mkdocs.yml", folder.parent)
    settings = ["--config-file", str(config), "--site-dir", str(folder.resolve())]
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", *settings], check=True)
    write_api(folder / "api")


def execute(notebook: Path) -> str:
    """A notebook's text with the outputs of an execution in its folder."""
    import nbformat
    from nbclient import NotebookClient

    found = nbformat.read(notebook, as_version=4)
    NotebookClient(found, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    for cell in found.cells:
        # They hold times, which differ in each execution.
        cell.metadata.pop("execution", None)
        # Libraries remark, with the paths of this machine, that they would have widgets.
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return nbformat.writes(found)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keys"]:
            KEYS.write_text(keys_page(), encoding="utf-8")
        case ["site", folder]:
            write_site(Path(folder))
        case ["notebook"]:
            NOTEBOOK.write_text(execute(NOTEBOOK), encoding="utf-8")
        case _:
            sys.exit(__doc__)
