"""Write the API reference, a page of what `vae_study` names, from the docstrings: `python docs/reference.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import pdoc
import vae_study

# A name that is missing, or a docstring or type that cannot be read, is a warning of pdoc's.
warnings.simplefilter("error", UserWarning)
for name in vae_study.__all__:
    # pdoc looks into the module, where a name is only after its first use.
    setattr(vae_study, name, getattr(vae_study, name))
pdoc.render.configure(docformat="google", show_source=False)
pdoc.pdoc("vae_study", output_directory=Path(sys.argv[1]))
