// The nearest point tells its text while it is pointed at or focused, and opens its samples when it is clicked.
const REACH_PIXELS = 22;
const tip = element.querySelector(".tip");
let current = null, shownBefore = null;

const middle = (point) => {
	const box = point.querySelector(".reach").getBoundingClientRect();
	return [box.left + box.width / 2, box.top + box.height / 2];
};
const distance = (point, x, y) => {
	const [atX, atY] = middle(point);
	return atX || atY ? Math.hypot(atX - x, atY - y) : Infinity; // 0, 0: of the drawing that is not shown
};
const nearest = (event) => {
	let best = null, least = REACH_PIXELS;
	for (const point of element.querySelectorAll(".point")) {
		const far = distance(point, event.clientX, event.clientY);
		if (far < least) { best = point; least = far; }
	}
	return best;
};
const show = (point) => {
	current?.classList.remove("pointed");
	current = point;
	tip.hidden = !point;
	element.style.cursor = point ? "pointer" : "";
	if (!point) return;
	point.classList.add("pointed");
	const [x, y] = middle(point);
	const others = [...element.querySelectorAll(".point")].filter((other) => other !== point && distance(other, x, y) < 2);
	tip.textContent = point.getAttribute("aria-label");
	if (others.length) tip.textContent += `\n+ ${others.length} at the same place: Tab reaches them`;
	const frame = tip.offsetParent.getBoundingClientRect();
	const left = x - frame.left - tip.offsetWidth / 2, above = y - frame.top - tip.offsetHeight - 14;
	tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth))}px`;
	tip.style.top = `${above < 0 ? y - frame.top + 14 : above}px`;
};
const open = (point) => {
	if (!point) return;
	show(null);
	trigger("select", { point: Number(point.dataset.point) });
};
element.addEventListener("pointermove", (event) => show(nearest(event)));
element.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") show(null); });
element.addEventListener("focusin", (event) => show(event.target.closest(".point")));
element.addEventListener("focusout", () => show(null));
element.addEventListener("pointerdown", () => { shownBefore = current; }, true);
element.addEventListener("click", (event) => {
	const point = nearest(event);
	// A finger cannot hover: its first tap tells, its second one opens.
	if (event.pointerType === "touch" && point !== shownBefore) show(point);
	else open(point);
});
element.addEventListener("keydown", (event) => {
	if (event.key !== "Enter" && event.key !== " ") return;
	event.preventDefault();
	open(event.target.closest(".point"));
});
