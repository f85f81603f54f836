"""find_cublaslt.py - prints the libcublasLt.so.N that PyTorch brought with it; status 1 where there is none."""
import glob
import sys

import nvidia

found = [f for folder in nvidia.__path__ for f in glob.glob(folder + "/**/libcublasLt.so.*", recursive=True)]
if not found:
    sys.exit(1)
print(found[0])
