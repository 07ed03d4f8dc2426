"""The DECTRIS stream v2, received and indexed without Python per frame, and the REST interface of its control unit."""
