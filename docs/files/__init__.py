"""The files that zoplat writes, and what each key in them means; one module for each group of files.

Meanings come from the docstrings of the classes that are written, where there is one. In a key, `<…>` stands for a
name, `[]` for the entries of a list, and a last `.*` for all that is below it. tests/docs/test_files.py makes runs,
studies and bundles and compares: each key of a file is here, and each key here is in a file, unless `unseen` has it.
"""
