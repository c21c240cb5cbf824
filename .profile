# Heroku sources this file in each dyno. The project itself is not installed there, only its requirements.
rapidbridge() { python -m app.cli "$@"; }
export -f rapidbridge
