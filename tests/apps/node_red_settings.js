// Node-RED under /admin, on a port of the caller's choice, with one account and nothing that it would fetch.
const { hashSync } = require("bcryptjs");

module.exports = {
    uiHost: "127.0.0.1",
    uiPort: Number(process.env.PORT),
    httpAdminRoot: "/admin",
    adminAuth: {
        type: "credentials",
        users: [{ username: "admin", password: hashSync("correct-horse", 8), permissions: "*" }],
    },
    diagnostics: { enabled: false, ui: false },
    editorTheme: { tours: false, projects: { enabled: false }, palette: { catalogues: [] } },
    telemetry: { enabled: false, updateNotification: false },
    logging: { console: { level: "info", metrics: false, audit: false } },
};
