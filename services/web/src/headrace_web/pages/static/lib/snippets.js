// The commands and code that submit the same job.

/**
 * Returns the ways to submit a job from elsewhere.
 *
 * @param {Object} spec The body of `POST /v1/jobs`.
 * @param {string} requestId The idempotency key; empty for none.
 * @returns {{title: string, text: string}[]}
 */
export function snippets(spec, requestId) {
  return [
    { title: "curl", text: curl(spec, requestId) },
    { title: "Command line", text: commandLine(spec, requestId) },
    { title: "Python", text: python(spec, requestId) },
    { title: "grpcurl", text: grpcurl(spec, requestId) },
  ];
}

function curl(spec, requestId) {
  const key = requestId ? ` \\\n  -H ${shell(`idempotency-key: ${requestId}`)}` : "";
  return `curl ${location.origin}/v1/jobs \\\n  -H "authorization: Bearer $HEADRACE_API_KEY" \\\n  -H 'content-type: application/json'${key} \\\n  -d ${shell(JSON.stringify(spec))}`;
}

function commandLine({ type, payload, queue, priority, labels, scheduleTime, timeout }, requestId) {
  const options = [
    queue ? `--queue ${shell(queue)}` : "", priority ? `--priority ${priority}` : "",
    ...Object.entries(labels || {}).map(([key, value]) => `--label ${shell(`${key}=${value}`)}`),
    scheduleTime ? `--at ${shell(scheduleTime)}` : "", timeout ? `--timeout ${shell(timeout)}` : "", requestId ? `--request-id ${shell(requestId)}` : "",
  ].filter(Boolean);
  return ["headrace submit", shell(type), shell(JSON.stringify(payload ?? null)), ...options].join(" ");
}

function python({ type, payload, queue, priority, labels }, requestId) {
  const options = [
    queue ? `queue=${literal(queue)}` : "", priority ? `priority=${priority}` : "", labels ? `labels=${literal(labels)}` : "", requestId ? `request_id=${literal(requestId)}` : "",
  ].filter(Boolean);
  return `async with Client() as client:\n    job = await client.submit(${[literal(type), literal(payload ?? null), ...options].join(", ")})\n    print(await job.result())`;
}

function grpcurl({ payload, ...spec }, requestId) {
  const job = payload === undefined ? spec : { ...spec, payload: { value: payload } };
  const request = requestId ? { job, requestId } : { job };
  return `grpcurl -H "authorization: Bearer $HEADRACE_API_KEY" -d ${shell(JSON.stringify(request))} \\\n  "$HEADRACE_TARGET" headrace.v1.JobService/SubmitJob`;
}

/** Quotes a text for a POSIX shell. */
export function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Returns a value as a Python literal. */
export function literal(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
