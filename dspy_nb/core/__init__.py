"""The core: plain functions over frozen data. Nothing in here imports a front end."""
