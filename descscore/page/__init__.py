"""The annotators' page, served by ``descscore serve``.

A request comes through ``guard``, which refuses what no page needs. ``site`` reads its event
and hands it to ``study_page`` or ``try_page``. These call ``descscore.study`` or the scorer, and
answer with a ``reply`` that the page's script shows.
"""
