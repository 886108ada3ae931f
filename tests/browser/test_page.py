#!/usr/bin/python3
"""The chat page in Debian's chromium: sign in, chat, a tool call, a cancel, a reconnect, a reload, a refusal.

Starts a deployment of its own with deploy/local/up; prints "N passed, N failed" last. Screenshots go to --shots DIR.
"""
import argparse
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 30


def free_port():
    """A port whose neighbours at +100, +200 and +201 are free too."""
    for port in range(21000, 29000, 7):
        taken = False
        for offset in (0, 100, 200, 201):
            with socket.socket() as probe:
                taken |= probe.connect_ex(("127.0.0.1", port + offset)) == 0
        if not taken:
            return port
    raise RuntimeError("no free ports")


class Deployment:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="pinion-page-")
        self.port = free_port()
        up = [ROOT / "deploy/local/up", "--state", self.dir, "--port", str(self.port), "--detach", "--skip-install"]
        subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}/"

    def token(self, user):
        command = [ROOT / "build/release/bin/pinion-gateway", "token", "--jwt-hs256-file", f"{self.dir}/jwt.key", "--user", user]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def pid(self, name):
        return int(pathlib.Path(self.dir, "run", f"{name}.pid").read_text())

    def down(self):
        subprocess.run([ROOT / "deploy/local/down", "--state", self.dir], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.dir)


class Page:
    def __init__(self, url, shots, dark=False, width=1200):
        self.profile = tempfile.mkdtemp(prefix="pinion-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", f"user-data-dir={self.profile}", f"window-size={width},800"]
        if dark:
            flags.append("force-dark-mode")
        for flag in flags:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        self.shots = shots
        self.driver.get(url)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        return self.driver.execute_script(script, selector)

    def wait(self, what, condition):
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.05)
        self.shot("failed")
        raise AssertionError(f"not seen within {DEADLINE_S} s: {what}; entries: {self.texts('#entries li')}")

    def sign_in(self, token):
        self.one("#token").send_keys(token)
        self.one("#sign-in button").click()

    def say(self, text):
        self.wait("the send button", lambda: self.one("#send").is_enabled())
        self.one("#input").send_keys(text, Keys.ENTER)

    def shot(self, name):
        if self.shots:
            self.driver.save_screenshot(f"{self.shots}/{name}.png")

    def close(self):
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)


def signs_in_and_shows_the_user(page, deployment):
    page.sign_in(deployment.token("usr_4a8f9c2b1e5d"))
    page.wait("Connected", lambda: page.texts("#status") == ["Connected"])
    assert page.texts("#user") == ["usr_4a8f9c2b1e5d"]
    page.shot("empty")


def chats_with_a_tool_call(page, deployment):
    page.say("what is 6 * 7?")
    page.wait("an answer with 42", lambda: any("42" in t for t in page.texts(".message.assistant:not(.open)")))
    assert any("calculator · ok" in t for t in page.texts(".tool summary")), page.texts(".tool summary")
    assert page.texts(".message.user") == ["what is 6 * 7?"]
    assert page.texts(".thinking"), "no thinking shown"
    page.wait("the run to end", lambda: not page.one("#cancel").is_displayed())
    page.shot("chat")


def names_the_thread_after_the_question(page, deployment):
    page.wait("the thread", lambda: page.texts("#threads button") == ["what is 6 * 7?"])


def cancels_a_streaming_run(page, deployment):
    page.say("count to 600")
    page.wait("streaming", lambda: any("3" in t for t in page.texts(".message.assistant.open")))
    page.one("#cancel").click()
    page.wait("the cancel", lambda: "Cancelled." in page.texts(".notice"))
    assert not page.texts(".message.open")
    page.shot("cancelled")


def reconnects_after_the_gateway_was_killed_in_the_middle(page, deployment):
    page.say("count to 60")
    page.wait("streaming", lambda: page.texts(".message.assistant.open"))
    killed = deployment.pid("gateway-0")
    os.kill(killed, signal.SIGKILL)
    page.wait("the loss", lambda: page.texts("#status") != ["Connected"])
    page.wait("a reconnect", lambda: page.texts("#status") == ["Connected"])
    assert deployment.pid("gateway-0") != killed
    page.wait("the whole count", lambda: page.texts(".message.assistant")[-1].rstrip(" .").endswith("60"))
    page.wait("the run to end", lambda: not page.one("#cancel").is_displayed())
    assert page.texts(".message.user").count("count to 60") == 1


def goes_on_after_its_worker_was_killed(page, deployment):
    page.say("count to 40")
    page.wait("streaming", lambda: page.texts(".message.assistant.open"))
    for name in ("worker-0", "worker-1"):
        os.kill(deployment.pid(name), signal.SIGKILL)
    page.wait("the recovery", lambda: any("worker was lost" in t for t in page.texts(".notice")))
    page.wait("the run to end", lambda: not page.one("#cancel").is_displayed())
    assert page.texts(".message.assistant")[-1].rstrip(" .").endswith("40"), page.texts(".message.assistant")[-1]


def shows_the_thread_again_after_a_reload(page, deployment):
    page.driver.refresh()
    page.wait("Connected", lambda: page.texts("#status") == ["Connected"])
    page.wait("the thread", lambda: page.texts("#threads button"))
    page.one("#threads button").click()
    page.wait("the messages", lambda: "what is 6 * 7?" in page.texts(".message.user"))


def says_why_it_was_refused(page, deployment):
    page.one("#sign-out").click()
    page.sign_in("not.a.token")
    page.wait("the reason", lambda: "token_invalid" in page.texts("#sign-in-reason")[0])
    page.shot("refused")


def nothing_was_reported_on_the_console(page, deployment):
    expected = ("WebSocket connection to",)
    bad = [e["message"] for e in page.driver.get_log("browser")
           if e["level"] == "SEVERE" and not any(x in e["message"] for x in expected)]
    assert not bad, bad


TESTS = [signs_in_and_shows_the_user, chats_with_a_tool_call, names_the_thread_after_the_question, cancels_a_streaming_run,
         reconnects_after_the_gateway_was_killed_in_the_middle, goes_on_after_its_worker_was_killed,
         shows_the_thread_again_after_a_reload, says_why_it_was_refused, nothing_was_reported_on_the_console]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", help="write screenshots to this directory")
    args = parser.parse_args()
    deployment = Deployment()
    page, failed = None, 0
    try:
        page = Page(deployment.url, args.shots)
        for test in TESTS:
            try:
                test(page, deployment)
                print(f"ok   {test.__name__}", flush=True)
            except Exception as error:  # each is told, the rest go on
                failed += 1
                print(f"FAIL {test.__name__}: {error}", flush=True)
    finally:
        if page:
            page.close()
        deployment.down()
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
