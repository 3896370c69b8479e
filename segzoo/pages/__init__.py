"""A model as a page for the browser: the page's own files, what it is told, a site, a Space."""
