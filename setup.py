"Everything about the package is stated once, in settings.ini; this file hands it to setuptools."

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

names = [k for k in cfg if k.endswith("_requirements") and k != "dev_requirements"]
extras = {k.removesuffix("_requirements"): cfg[k].split() for k in names}
extras["all"] = sum((extras[k] for k in ("train", "images", "ode", "compare")), [])
extras["dev"] = extras["all"] + cfg["dev_requirements"].split()


def readme():
    "README.md for a package index, which has none of its files: links lead to the repository"
    path = here / "README.md"
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8")
    home = cfg["git_url"].removeprefix("https://github.com/")
    raw = f"https://raw.githubusercontent.com/{home}/{cfg['branch']}/"
    page = f"https://github.com/{home}/blob/{cfg['branch']}/"
    text = re.sub(r'((?:src|srcset)=")(?!https?:)', rf"\1{raw}", text)
    return re.sub(r"(\]\()(?!https?:|mailto:|#)", rf"\1{page}", text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["py.typed", "weights/*.safetensors"]},
    python_requires=">=" + cfg["min_python"],
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": ["nsgf = nsgf_nb.cli:main"],
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
