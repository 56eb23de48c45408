"""Read tables, folders, archives and data sets: one record type, and one reader for each format.

Every format is a :class:`~descscore.tables.reader.Table`. A
:class:`~descscore.tables.reader.Reader` makes its records into
:class:`~descscore.tables.rows.Row` objects, for scoring, training, evaluation and studies alike.
"""
