// Tells the user, in each open tab, that the session has ended: <body data-session="64e34bd99610">
"use strict";

const page = document.querySelector("[data-session]");
let stream, later;

const listen = () => {
  stream = new EventSource(`/session-endings?session=${page.dataset.session}`);
  stream.addEventListener("ended", (event) => {
    stream.close(); // or else the browser would come again
    const note = document.createElement("p");
    note.id = "session-ended";
    note.setAttribute("role", "alert");
    note.textContent = JSON.parse(event.data).reason === "expired"
      ? "Your session has expired. Reload the page to go on."
      : "You were logged out. Reload the page to go on.";
    document.getElementById(note.id)?.remove();
    document.body.prepend(note);
    document.dispatchEvent(new Event("session-ended")); // for the page's other scripts
  });
  stream.addEventListener("error", () => {
    // It comes again by itself, but for an answer like the 502 of a proxy.
    if (stream.readyState === EventSource.CLOSED) later = setTimeout(listen, 15000);
  });
};

if (page) {
  // Pages that a browser keeps to go back to hold no connection open.
  addEventListener("pageshow", listen);
  addEventListener("pagehide", () => { clearTimeout(later); stream?.close(); });
}
