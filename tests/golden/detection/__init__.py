"""Detection and tracking figures of the official nuscenes-devkit on synthetic drives, and how they were made."""
