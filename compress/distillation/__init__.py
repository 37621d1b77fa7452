"""The stage that trains a student on what its teachers say."""
