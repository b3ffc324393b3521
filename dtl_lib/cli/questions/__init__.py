"""The parts of `dtl probe`: which images, the kinds of questions, what is drawn, and the files of the answers."""
