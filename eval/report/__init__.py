"""One report of all evaluations, as JSON, Markdown and an accessible HTML page."""
