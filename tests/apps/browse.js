// A user of both applications: logs in, works and logs out, through the proxy whose URL is the first argument.
// Fails where a page, a cookie or a request ends up outside of the prefix of its application.
const assert = require("node:assert/strict");
const { chromium } = require("playwright-core");

const proxy = process.argv[2];
const say = (text) => console.log(text);

/** Where the page is, seen from the proxy. */
const place = (page) => page.url().replace(proxy, "");

/** Notes all that the page asks for that is not below the prefix, or not there. 401 is how an editor learns to ask who it is. */
function watch(page, prefix) {
    const astray = [];
    page.on("response", (response) => {
        const isBelow = response.url().startsWith(proxy + prefix) || response.url().startsWith("data:");
        if (!isBelow || (response.status() >= 400 && response.status() !== 401)) astray.push(`${response.status()} ${response.url()}`);
    });
    return astray;
}

async function django(page) {
    const astray = watch(page, "/django");
    await page.goto(`${proxy}/django/admin/`);
    assert.equal(place(page), "/django/admin/login/?next=/django/admin/");
    await page.fill("#id_username", "admin");
    await page.fill("#id_password", "correct-horse");
    await page.click("input[type=submit]");
    await page.waitForURL(`${proxy}/django/admin/`);
    assert.match(await page.textContent("#content h1"), /Site administration/);
    const cookies = await page.context().cookies(`${proxy}/django/admin/`);
    for (const name of ["csrftoken", "sessionid"]) {
        assert.equal(cookies.find((cookie) => cookie.name === name)?.path, "/django", name);
    }
    assert.deepEqual(await page.context().cookies(`${proxy}/nodered/`), [], "no cookie is sent to others");
    say("django: logged in; csrftoken and sessionid have Path=/django, and nobody else gets them");

    // A form, a redirect after it, and a message that travels in a cookie.
    await page.click("text=Groups");
    await page.click("text=Add group");
    await page.fill("#id_name", "readers");
    await page.click("input[name=_save]");
    await page.waitForURL(`${proxy}/django/admin/auth/group/`);
    assert.match(await page.textContent("ul.messagelist"), /readers.*added successfully/s);
    const rules = await page.evaluate(() => [...document.styleSheets].map((sheet) => sheet.cssRules.length));
    assert.ok(rules.length > 0 && rules.every((count) => count > 0), `style sheets with ${rules} rules`);
    await page.click("#logout-form button");
    await page.waitForURL(`${proxy}/django/admin/logout/`);
    assert.deepEqual(astray, []);
    say("django: added a group, was led back to the list, logged out; nothing went astray");
}

async function nodeRed(page) {
    const astray = watch(page, "/nodered");
    const sockets = [];
    page.on("websocket", (socket) => sockets.push(socket));
    // Node-RED sends whoever forgets the slash to /admin/, where it lives.
    await page.goto(`${proxy}/nodered`);
    assert.equal(place(page), "/nodered/");
    say("node-red: Location: /admin/ has become /nodered/");
    await page.fill("#node-dialog-login-username", "admin");
    await page.fill("#node-dialog-login-password", "correct-horse");
    await page.click("#node-dialog-login-submit");
    await page.waitForSelector("#red-ui-header-button-user", { state: "visible" });
    await page.waitForSelector("#red-ui-palette .red-ui-palette-node", { state: "visible" });
    const socket = sockets.find((socket) => socket.url() === `${proxy.replace("http", "ws")}/nodered/comms`);
    assert.ok(socket, `the editor talks over ${sockets.map((socket) => socket.url())}`);
    assert.ok(!socket.isClosed());
    say("node-red: logged in; the editor is there and its WebSocket goes through /nodered/comms");
    await page.reload();
    await page.waitForSelector("#red-ui-header-button-user", { state: "visible" });
    await page.click("#red-ui-header-button-user");
    await page.click("#usermenu-item-logout");
    await page.waitForSelector("#node-dialog-login-username", { state: "visible" });
    assert.deepEqual(astray, []);
    say("node-red: still known after a reload, logged out; nothing went astray");
}

async function main() {
    const context = await chromium.launchPersistentContext(process.env.PROFILE, {
        executablePath: process.env.BROWSER,
        headless: true,
        args: [
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync",
        ],
    });
    context.setDefaultTimeout(30_000);
    try {
        await django(await context.newPage());
        await nodeRed(await context.newPage());
    } finally {
        await context.close();
    }
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
