"""Ray Serve's consistent-hash router with places in the ring (see dsin.runtime.fleet.ring).

Ray is imported with the class, at its first use: `dsin.runtime.fleet.router.PlaceRouter`.
"""

from typing import Any

from dsin.runtime.fleet.ring import PlaceRing

PLACE = "place"
"""What a replica calls its place in the metadata that it publishes to the routers."""


def _make_router() -> type:
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    class PlaceRouter(ConsistentHashRouter):  # type: ignore[misc]
        """Sends every call of a session to the replica that `PlaceRing` names, and never to
        another one because that one is busy."""

        _place_ring: PlaceRing[Any] = PlaceRing({})

        def update_replicas(self, replicas: list[Any]) -> None:
            """Called with all running replicas, whenever one comes or goes."""
            places: dict[str, Any] = {}
            for replica in sorted(replicas, key=lambda r: str(r.replica_id.unique_id)):
                name = str(replica.replica_metadata.get(PLACE, ""))
                if not name or name in places:
                    # Two at one place, while a new version replaces the old one.
                    name = str(replica.replica_id.unique_id)
                places[name] = replica.replica_id
            self._place_ring = PlaceRing(places)
            super().update_replicas(replicas)

        async def choose_replicas(
            self, candidate_replicas: list[Any], pending_request: Any = None
        ) -> list[list[Any]]:
            """The one replica of the request's session, in the form that the base class has."""
            session = pending_request.metadata.session_id if pending_request else ""
            if not session:
                ranked: list[list[Any]] = await super().choose_replicas(
                    candidate_replicas, pending_request
                )
                return ranked
            pending_request.routing_context.should_backoff = True
            # What was found dead is no candidate any more.
            alive = {replica.replica_id: replica for replica in candidate_replicas}
            owner = self._place_ring.owner(session, alive)
            return [] if owner is None else [[alive[owner]]]

    PlaceRouter.__qualname__ = "PlaceRouter"
    return PlaceRouter


def __getattr__(name: str) -> Any:
    if name != "PlaceRouter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _make_router()
    return globals()[name]
