"""The motion of the ego from the best that a drive offers: poses, recorded odometry, radar Doppler, lidar, nothing."""

from perception.core.messages import AnyMessage, EgoState, LidarSweep, RadarScan
from perception.core.motion import EgoMotion, MotionSource
from perception.core.rig import Modality, SensorRig
from perception.sync.ego_motion_doppler import DopplerOdometry
from perception.sync.ego_motion_lidar import LidarOdometry
from perception.sync.ego_track import MAX_EXTRAPOLATION_NS, EgoTracker

LIDAR_PATIENCE_NS = 250_000_000
"""How long, from the first message on, poses and radars may take to speak before costly lidar odometry begins."""

MOTION_SPAN_NS = 300_000_000
"""Ego motion this far around a reference time covers every message that can belong to it."""

ACCUMULATION_SPAN_NS = 1_050_000_000
"""As `MOTION_SPAN_NS`, for a model that joins sweeps of the last second (`MAX_SWEEP_AGE_NS`) to the newest."""


class EgoMotionEstimator:
    """Watches messages and tells the motion around any recent time; which source it took is in the answer.

    Each source has its own history; at each reference the best one that reaches it is taken. Doppler is left alone
    while recorded states come, lidar odometry for good once they or Doppler have come.
    """

    def __init__(self, rig: SensorRig) -> None:
        self._rig = rig
        lidars = rig.of(Modality.LIDAR)
        self._odometry_lidar = lidars[0].name if lidars else None
        self._recorded = EgoTracker(MotionSource.ODOMETRY)
        self._radar = EgoTracker(MotionSource.RADAR)
        self._lidar = EgoTracker(MotionSource.LIDAR)
        self._doppler = DopplerOdometry()
        self._registration = LidarOdometry()
        self._first_ns: int | None = None

    def observe(self, message: AnyMessage) -> None:
        """Take a message; what tells nothing about the ego's motion is ignored.

        Raises PerceptionError where lidar odometry is needed but Open3D cannot be loaded.
        """
        if self._first_ns is None:
            self._first_ns = message.capture_ns
        if isinstance(message, EgoState):
            self._recorded.observe(message)
        elif isinstance(message, RadarScan):
            self._observe_radar(message)
        elif isinstance(message, LidarSweep):
            self._observe_lidar(message)

    def motion_at(self, reference_ns: int, span_ns: int) -> EgoMotion:
        """Motion from `span_ns` before to `span_ns` after a reference time; standing, with source NONE, if unknown."""
        for tracker in (self._recorded, self._radar, self._lidar):
            motion = tracker.motion_at(reference_ns, span_ns)
            if motion.source is not MotionSource.NONE:
                return motion
        return EgoMotion.standing(reference_ns)

    def _observe_radar(self, scan: RadarScan) -> None:
        behind_ns = self._recorded.extrapolation_ns(scan.capture_ns)
        if scan.sensor not in self._rig or (behind_ns is not None and behind_ns <= MAX_EXTRAPOLATION_NS):
            return
        state = self._doppler.observe(scan, self._rig[scan.sensor].ego_SE3_sensor)
        if state is not None:
            self._radar.observe(state)

    def _observe_lidar(self, sweep: LidarSweep) -> None:
        is_told = not (self._recorded.is_empty and self._radar.is_empty)
        if is_told or sweep.sensor != self._odometry_lidar:
            return
        if self._first_ns is not None and sweep.capture_ns - self._first_ns < LIDAR_PATIENCE_NS:
            return
        state = self._registration.observe(sweep, self._rig[sweep.sensor].ego_SE3_sensor)
        if state is not None:
            self._lidar.observe(state)
