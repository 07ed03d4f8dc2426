"""Messages in: what the DECTRIS stream v2 says, received and indexed without Python per frame."""
