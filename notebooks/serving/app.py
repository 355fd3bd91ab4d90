"""Serve what is live in an environment of the registry, and notice each deployment and roll-back by itself.

    DSPY_NB_REGISTRY=registry uvicorn app:app

Each request asks the environment for its program, which costs next to nothing, and keeps it to its end: no request
sees two versions, and no deployment or roll-back needs a restart.
"""

import os

import dspy
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import dspy_nb as nb


class Review(BaseModel):
    review: str


class Answer(BaseModel):
    sentiment: str


registry = nb.Registry(os.environ.get("DSPY_NB_REGISTRY", "registry"))
production = registry.environment(os.environ.get("ENVIRONMENT", "production"))
app = FastAPI(title="Short-review sentiment")

if dspy.settings.lm is None:
    dspy.configure(lm=nb.local_lm(), adapter=dspy.JSONAdapter())


@app.post("/sentiment")
def sentiment(request: Review) -> Answer:
    program = production.load()  # for every request, and once
    return Answer(sentiment=program(review=request.review).sentiment)


@app.get("/health")
def health() -> dict[str, str]:
    """Say what is live; 503 where nothing is, so that no traffic is sent here."""
    live = production.current
    if live is None:
        raise HTTPException(503, f"nothing is live in {production.name}")
    return {"live": live.ref, "since": production.history()[-1].at}
