"""Another import path of ``StreamOptions``, which the documentation names."""

from descscore.stream.pairs import StreamOptions as StreamOptions
