"""What runs the network: torch on a CPU or a GPU, ONNX Runtime, OpenVINO. `contract.py` says what they share."""
