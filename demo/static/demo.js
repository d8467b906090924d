// Count the remaining life down. Without JavaScript the page shows it as it was when it was sent.
const left = document.getElementById("left");
if (left && left.dataset.seconds) {
  const end = Date.now() + 1000 * Number(left.dataset.seconds);
  const show = () => {
    const seconds = Math.max(0, Math.round((end - Date.now()) / 1000));
    const rest = String(seconds % 60).padStart(2, "0");
    left.textContent = seconds ? `${Math.floor(seconds / 60)}:${rest}` : "over: reload for a new one";
  };
  show();
  setInterval(show, 1000);
}
