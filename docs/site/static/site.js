// Excerpts in search results are read from the pages, which browsers refuse where the site is opened from a folder.
if (location.protocol === "file:")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
