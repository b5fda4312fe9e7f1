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
extras["dev"] = sum((extras[k] for k in ("all", "fast", "tables", "flows")), [])
extras["dev"] += cfg["dev_requirements"].split()


def without_files(text):
    "A text that has none of the files it links to: pictures go, links become their words"
    text = re.sub(r"<(picture|figure)>.*?</\1>\n*", "", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|mailto:|#)[^)]*\)", r"\1", text)


def with_links(text, home, branch):
    "A text whose links to files, and whose pictures, lead to the repository"
    raw = home.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = re.sub(r'((?:src|srcset)=")(?!https?:)', rf"\1{raw}/{branch}/", text)
    return re.sub(r"(\]\()(?!https?:|mailto:|#)", rf"\1{home}/blob/{branch}/", text)


def readme():
    "README.md for a package index, which has none of the files of the repository"
    if not (here / "README.md").exists():
        return ""
    text = (here / "README.md").read_text(encoding="utf-8")
    if not cfg["git_url"]:
        return without_files(text)
    return with_links(text, cfg["git_url"], cfg["branch"])


# what has no address yet is left out
addresses = {}
if cfg["git_url"]:
    addresses["url"] = cfg["git_url"]
if cfg["doc_host"]:
    addresses["project_urls"] = {"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
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
    **addresses,
)
