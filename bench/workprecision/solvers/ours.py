"nsgf_nb: Newton steps, stopped by an estimate of the error of v."

from nsgf_nb.estimator import SinkhornVelocity

NAME = "ours"
EFFORTS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # tol


def warm(x, y, a, b, blur):
    for effort in EFFORTS:  # what is compiled depends on size, precision and tolerance
        velocity(x, y, a, b, blur, effort)


def velocity(x, y, a, b, blur, effort):
    return SinkhornVelocity(blur, tol=effort)(x, y, a=a, b=b)
