"""The import path of ``StreamOptions`` that the documentation named before :mod:`descscore.stream.pairs`."""

from descscore.stream.pairs import StreamOptions as StreamOptions
