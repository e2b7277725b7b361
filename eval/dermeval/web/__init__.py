"""The web app: similar-case search in the browser, and its JSON API. It listens on this machine alone by default."""
