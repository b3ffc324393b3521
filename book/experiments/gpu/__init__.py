"""Everything this book needs from a GPU, in the minutes that one is there for: `python -m book.experiments.gpu`."""
