"""RVC: a voice that is learnt once and then sings whatever another voice sings. Compatible with published models."""
