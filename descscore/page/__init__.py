"""The web pages for annotators and writers, served by ``descscore serve``.

A request first passes ``guard``, which refuses requests that no page sends. ``site`` reads the event
in the request and passes it to ``study_page`` or ``try_page``. These call ``descscore.study`` or the
scorer, and answer with a ``reply`` that the page's script shows.
"""
