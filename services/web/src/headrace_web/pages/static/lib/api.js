// Calls Headrace's JSON API with the session of the browser.

/** A failed call. */
export class ApiError extends Error {
  /**
   * @param {Object} problem The problem document (RFC 9457), or the error of the Connect protocol.
   * @param {number} status The HTTP status; 0 if the server was not reached.
   */
  constructor(problem, status) {
    super(problem.detail || problem.message || problem.title || "The call failed.");
    this.name = "ApiError";
    this.status = status;
    this.reason = problem.reason || reasonOf(problem.details) || "";
    this.violations = problem.violations || violationsOf(problem.details);
  }
}

/**
 * Calls an RPC by the Connect protocol.
 *
 * @param {string} method Service and method: `JobService/CancelJob`.
 * @param {Object} [request] The request in protobuf's JSON form.
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Object>} The response in protobuf's JSON form.
 * @throws {ApiError}
 */
export function call(method, request = {}, { signal } = {}) {
  return send(`/headrace.v1.${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1" },
    body: JSON.stringify(request),
    signal,
  });
}

/**
 * Reads a resource: `get("/v1/jobs", {filter: "state = FAILED"})`.
 *
 * @param {string} path
 * @param {Object} [parameters] Query parameters; null, undefined and "" are omitted.
 * @param {{signal?: AbortSignal}} [options]
 * @returns {Promise<Object>}
 * @throws {ApiError}
 */
export function get(path, parameters = {}, { signal } = {}) {
  return send(withQuery(path, parameters), { headers: { accept: "application/json" }, signal });
}

/** Sends JSON to a resource; see `get`. */
export function post(path, body = {}, { signal, headers = {} } = {}) {
  return send(path, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
}

/** Returns a path with query parameters; null, undefined and "" are omitted. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** The next request renews an expired session, so a rejected one is repeated once. */
async function send(url, options) {
  try {
    return await sendOnce(url, options);
  } catch (error) {
    if (error.status !== 401) throw error;
  }
  try {
    return await sendOnce(url, options);
  } catch (error) {
    if (error.status === 401) logIn();
    throw error;
  }
}

async function sendOnce(url, options) {
  const { headers, ...rest } = options;
  let response;
  try {
    response = await fetch(url, {
      ...rest,
      // Another site cannot set this header, so a request with it comes from this page.
      headers: { ...headers, "x-headrace-csrf": "1" },
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ title: "Headrace is not reachable. Check the connection and try again." }, 0);
  }
  const body = await readJson(response);
  if (response.ok) return body;
  throw new ApiError(body, response.status);
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    return { title: `The server responded with status ${response.status}.` };
  }
}

/** Opens the login page, which leads back to the current page. */
export function logIn() {
  if (location.pathname === "/login") return;
  location.assign(withQuery("/login", { next: location.pathname + location.search }));
}

function reasonOf(details = []) {
  return details.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug?.reason;
}

function violationsOf(details = []) {
  return details.find((detail) => detail.type === "google.rpc.BadRequest")?.debug?.fieldViolations || [];
}
