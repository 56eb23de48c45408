"""Read tables, folders, archives and data sets: one record type, and one reader for all formats.

A format (:mod:`~descscore.tables.text_tables`, :mod:`~descscore.tables.json_tables`,
:mod:`~descscore.tables.parquet`, :mod:`~descscore.tables.data_sets`, :mod:`~descscore.tables.samples`) is a
:class:`~descscore.tables.reader.Table`. It names its columns and walks through its records. A
:class:`~descscore.tables.reader.Reader` makes them into :class:`~descscore.tables.rows.Row` objects, for
scoring, training, evaluation and studies alike.
:mod:`~descscore.tables.open` chooses the format of an input.
"""
