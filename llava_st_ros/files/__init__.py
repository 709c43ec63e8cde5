"""Guarded loaders, one per file format: the only places that call a parser of files.

Each loader bounds what it reads (``limits``), runs no code of a file, and raises the caller's
``LlavaStError`` with the file's name for everything that is wrong with the file. PyTorch's pickles
are read by ``model.pickle_files``, because this package does not import torch.
"""
