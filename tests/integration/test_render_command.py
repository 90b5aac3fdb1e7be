"""`perception render`: videos and contact sheets."""

from pathlib import Path

import cv2
import numpy as np

from perception.queues.open import open_queue
from perception.queues.samples import sample_result
from tests.integration.conftest import Perception

DRIVE = "synthetic:seed=3,duration=1"


def test_a_video_has_a_frame_for_each_scene_at_the_pace_of_the_drive(perception: Perception, tmp_path: Path) -> None:
    path = tmp_path / "new" / "drive.mp4"
    assert perception("render", DRIVE, "--out", str(path), "--stride", "2", "--height", "240").code == 0
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == 10
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    assert video.get(cv2.CAP_PROP_FRAME_HEIGHT) == 240
    is_read, frame = video.read()
    assert is_read
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 500


def test_a_contact_sheet_has_the_tiles_that_were_asked_for(perception: Perception, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    said = perception("render", DRIVE, "--out", str(path), "--tiles", "4", "--columns", "2", "--tile-width", "300")
    assert said.code == 0, said.err
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert sheet.shape[1] == 2 * (300 + 6) + 6
    first, last = sheet[6:60, 6:306], sheet[sheet.shape[0] // 2 :, 312:]
    assert first.std() > 10
    assert last.std() > 10


def test_wrong_use_says_what_is_right(perception: Perception, tmp_path: Path) -> None:
    said = perception("render", DRIVE, "--out", str(tmp_path / "drive.avi"))
    assert (said.code, "must end in .mp4, .png or .jpg" in said.err) == (2, True)
    said = perception("render", DRIVE, "--out", str(tmp_path / "a.mp4"), "--start", "50")
    assert (said.code, "nothing to draw" in said.err) == (2, True)
    (tmp_path / "results.txt").touch()
    said = perception("render", DRIVE, "--out", str(tmp_path / "a.mp4"), "--results", str(tmp_path / "results.txt"))
    assert (said.code, "results are in .mcap files" in said.err) == (2, True)


def test_results_of_another_drive_are_refused(perception: Perception, tmp_path: Path) -> None:
    queue = open_queue(f"mcap:{tmp_path / 'results.mcap'}")
    queue.publish(sample_result(np.random.default_rng(0), sequence=0))
    queue.close()
    said = perception("render", DRIVE, "--out", str(tmp_path / "a.mp4"), "--results", str(tmp_path / "results.mcap"))
    assert said.code == 2
    assert "the results are of drive 'sample-drive'" in said.err
