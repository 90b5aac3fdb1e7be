"""Maps: the shipped networks, the reader, relief, drivable ground, and what is said about maps that are none."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import ConfigError
from sim.held_out import held_out
from sim.maps import plain
from sim.maps.area import drivable_grid
from sim.maps.build import BUILDERS, build
from sim.maps.catalog import FOLDER, load_map, map_names
from sim.maps.lines import arc_lengths, at_arc, headings, offset, resample, without_doubles
from sim.maps.net import LaneKind, RoadMap, read_net
from sim.maps.relief import Relief, relief_of
from sim.settings import WorldSettings

NAMES = map_names()


@pytest.fixture(scope="module")
def maps() -> dict[str, RoadMap]:
    return {name: load_map(name) for name in NAMES}


def test_six_maps_to_train_on_and_two_held_out() -> None:
    reserved = held_out()
    assert len(reserved.maps) >= 2
    assert set(reserved.maps) < set(NAMES)
    assert len(set(NAMES) - set(reserved.maps)) >= 6
    assert reserved.holds(WorldSettings(map=reserved.maps[0], seed=1))
    assert reserved.holds(WorldSettings(map="town_grid", seed=reserved.first_seed))
    assert not reserved.holds(WorldSettings(map="town_grid", seed=1))


def test_every_shipped_map_is_small_and_has_a_recipe() -> None:
    assert set(BUILDERS) == set(NAMES)
    assert all((FOLDER / f"{name}.net.xml").stat().st_size < 1_000_000 for name in NAMES)


def test_recipes_make_the_shipped_bytes_again(tmp_path: Path) -> None:
    pytest.importorskip("sumo")
    for name in ("rural", "motorway", "old_town"):
        build(name, tmp_path / "again.net.xml")
        made, shipped = (path.read_bytes() for path in (tmp_path / "again.net.xml", FOLDER / f"{name}.net.xml"))
        assert hashlib.sha256(made).digest() == hashlib.sha256(shipped).digest(), name


@pytest.mark.parametrize("name", NAMES)
def test_nothing_leads_nowhere(maps: dict[str, RoadMap], name: str) -> None:
    net = maps[name]
    for edge in net.edges.values():
        if edge.of(LaneKind.DRIVE):
            assert net.successors(edge.name, "passenger"), f"{edge.name} is a dead end"
    for connection in net.connections:
        inner = [net.lanes[via] for via in connection.via]
        start = net.edges[connection.from_edge].lanes[connection.from_lane].shape_m[-1, :2]
        end = net.edges[connection.to_edge].lanes[connection.to_lane].shape_m[0, :2]
        line = np.concatenate([[start], *(lane.shape_m[:, :2] for lane in inner), [end]])
        assert np.linalg.norm(line[1] - line[0]) < 0.1
        assert np.linalg.norm(line[-1] - line[-2]) < 0.1


def test_what_each_map_is_for(maps: dict[str, RoadMap]) -> None:
    kinds = {name: {lane.kind for lane in net.lanes.values()} for name, net in maps.items()}
    for town in ("town_grid", "town_irregular", "arterial", "old_town", "ring_town"):
        assert {LaneKind.SIDEWALK, LaneKind.CROSSING, LaneKind.CLOSED} <= kinds[town]
        assert any(connection.signal for connection in maps[town].connections)
    assert LaneKind.BUS in kinds["arterial"]
    assert max(edge.speed_mps for edge in maps["motorway"].edges.values()) > 30


@pytest.mark.parametrize("name", NAMES)
def test_bends_can_be_driven_at_the_speed_that_is_allowed_there(maps: dict[str, RoadMap], name: str) -> None:
    for lane in maps[name].lanes.values():
        if lane.kind in (LaneKind.DRIVE, LaneKind.BUS) and lane.length_m > 24:
            yaw = np.unwrap(headings(resample(without_doubles(lane.shape_m), 2.0)))
            curvature = np.abs(yaw[6:] - yaw[:-6]) / 12.0
            assert lane.speed_mps**2 * curvature.max() < 4.0, lane.name


def test_ways_that_only_some_maps_have(maps: dict[str, RoadMap]) -> None:
    kinds = {name: {lane.kind for lane in net.lanes.values()} for name, net in maps.items()}
    assert LaneKind.SIDEWALK not in kinds["motorway"]
    assert not maps["rural"].is_flat
    assert sum(edge.kind == "roundabout" for edge in maps["roundabouts"].edges.values()) >= 12


def test_the_middle_of_lanes_is_drivable_and_of_pavements_is_not(maps: dict[str, RoadMap]) -> None:
    for net in maps.values():
        grid = drivable_grid(net)
        for lane in net.lanes.values():
            if lane.length_m < 8:
                continue
            inner = at_arc(lane.shape_m, np.linspace(3.0, lane.length_m - 3.0, 5))
            if lane.kind in (LaneKind.DRIVE, LaneKind.BUS, LaneKind.INTERNAL):
                assert grid.contains(inner).mean() >= 0.8, (net.name, lane.name)
            elif lane.kind is LaneKind.SIDEWALK:
                assert not grid.contains(inner).any(), (net.name, lane.name)
        assert not grid.contains(np.array([[1e6, 0.0], [-1e6, 5.0]])).any()


def test_the_relief_runs_through_the_roads(maps: dict[str, RoadMap]) -> None:
    net = maps["rural"]
    relief = relief_of(net)
    lanes = [lane for lane in net.lanes.values() if lane.kind is LaneKind.DRIVE]
    points = np.concatenate([lane.shape_m for lane in lanes])
    assert np.ptp(points[:, 2]) > 10
    error = relief.at(points) - points[:, 2]
    # Smoothing lowers crests; it must not change the hill.
    assert np.abs(error).max() < 1.2
    assert np.corrcoef(relief.at(points), points[:, 2])[0, 1] > 0.995
    slope = np.diff(relief.at(resample(lanes[0].shape_m, 2.0))) / 2.0
    assert np.abs(slope).max() < 0.15


def test_bilinear_heights_are_exact_on_a_plane() -> None:
    y, x = np.mgrid[0:6, 0:9] * 5.0
    relief = Relief(origin_m=np.array([100.0, -50.0]), height_m=0.02 * x - 0.03 * y + 1.0)
    points = np.array([[103.0, -44.0], [131.0, -30.0], [100.0, -50.0]])
    assert np.allclose(relief.at(points), 0.02 * (points[:, 0] - 100) - 0.03 * (points[:, 1] + 50) + 1.0)


def test_offsets_keep_their_distance_round_a_bend() -> None:
    angle = np.linspace(0, np.pi, 60)
    arc = 20.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner = offset(arc, 3.0)
    assert np.allclose(np.linalg.norm(inner[1:-1], axis=1), 17.0, atol=0.02), "left of a left bend is inside"
    assert np.isclose(arc_lengths(arc)[-1], 20 * np.pi, rtol=1e-3)


def test_an_unknown_map_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="atlantis") as caught:
        load_map("atlantis")
    assert all(name in str(caught.value) for name in NAMES)


def test_files_that_are_no_network_are_named(tmp_path: Path) -> None:
    for text, reason in (("<net", "not a readable"), ("<routes/>", "<routes>"), ("<net></net>", "no lane")):
        path = tmp_path / "bad.net.xml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=reason) as caught:
            load_map(path)
        assert "bad.net.xml" in str(caught.value)


def test_a_gzipped_network_by_path(tmp_path: Path, maps: dict[str, RoadMap]) -> None:
    path = tmp_path / "mine.net.xml.gz"
    path.write_bytes(gzip.compress((FOLDER / "rural.net.xml").read_bytes()))
    net = read_net(path)
    assert net.name == "mine"
    assert list(net.edges) == list(maps["rural"].edges)


def test_opendrive_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sumo")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drive = tmp_path / "loop.xodr"
    plain.run_tool("netconvert", [f"--sumo-net-file={FOLDER / 'roundabouts.net.xml'}", f"--opendrive-output={drive}"])
    net = load_map(drive)
    assert sum(lane.length_m for lane in net.lanes.values() if lane.kind is LaneKind.DRIVE) > 500
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    monkeypatch.setattr(plain, "run_tool", lambda name, arguments: pytest.fail("converted twice"))
    assert load_map(drive).path == net.path


def test_opendrive_without_the_converter_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(__import__("sys").modules, "sumo", None)
    drive = tmp_path / "road.xodr"
    drive.write_text("<OpenDRIVE/>")
    with pytest.raises(ConfigError, match="pip install eclipse-sumo"):
        load_map(drive)
