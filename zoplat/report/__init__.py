"""Reports: a finished run as an HTML page and as Markdown, with figures."""
