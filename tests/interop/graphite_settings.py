"""graphite-web's local settings for these tests; GRAPHITE_STORAGE_DIR is set by conftest.py."""

import os

SECRET_KEY = "only used on loopback by tests"
LOG_DIR = os.path.join(os.environ["GRAPHITE_STORAGE_DIR"], "log")
os.makedirs(LOG_DIR, exist_ok=True)
LOG_FILE_INFO = LOG_FILE_EXCEPTION = LOG_FILE_CACHE = LOG_FILE_RENDERING = "-"
