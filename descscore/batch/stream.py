"""``StreamOptions`` under the path that the documentation names; streams live in :mod:`descscore.stream`."""

from descscore.stream.pairs import StreamOptions as StreamOptions
