"""What the Hub puts into a new static Space."""

#: The card that the Hub gives a new Space.
SPACE_CARD = """\
---
title: Name
emoji: X
colorFrom: red
colorTo: blue
sdk: static
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""

#: The page of it, and all that there is in a new Space.
SPACE_PAGE = """\
<!doctype html>
<html>
\t<head>
\t\t<meta charset="utf-8" />
\t\t<meta name="viewport" content="width=device-width" />
\t\t<title>My static Space</title>
\t\t<link rel="stylesheet" href="style.css" />
\t</head>
\t<body>
\t\t<div class="card">
\t\t\t<h1>Welcome to your static Space!</h1>
\t\t\t<p>You can modify this app directly by editing <i>index.html</i> in the Files and versions tab.</p>
\t\t\t<p>
\t\t\t\tAlso don't forget to check the
\t\t\t\t<a href="https://huggingface.co/docs/hub/spaces" target="_blank">Spaces documentation</a>.
\t\t\t</p>
\t\t</div>
\t</body>
</html>
"""
SPACE_FILES = {
    "README.md": SPACE_CARD.encode(),
    "index.html": SPACE_PAGE.encode(),
    "style.css": b"body { padding: 2rem; }",
}
