"""What `perception replay` makes of its options before anything starts."""

from perception.cli.replay import never_waiting
from perception.config.load import load_service_config


def test_a_live_replay_never_waits_for_its_queue_unless_told_to() -> None:
    assert never_waiting(load_service_config()).queue.when_full == "drop"
    told = load_service_config(overrides=["queue.when_full=wait", "queue.history=7"])
    assert never_waiting(told) == told
    kept = never_waiting(load_service_config(overrides=["queue.history=7"])).queue
    assert (kept.history, kept.when_full) == (7, "drop")
    assert "history" in kept.model_fields_set, "brokers tell a setting from a default"
