"""Tasks: data, prompt, options or reference answers, and a metric. One file per published task."""
