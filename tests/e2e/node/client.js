// Calls the web service as a page does, and prints what it received as JSON.
//
//     node client.js URL

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { JobService } from "./gen/headrace/v1/job_service_pb.js";
import { JobState } from "./gen/headrace/v1/job_pb.js";

const [baseUrl] = process.argv.slice(2);
const job = {
  type: "square_sum",
  payload: { kind: { case: "json", value: new TextEncoder().encode('{"data": [1]}') } },
};

async function submitWatchAndCancel(transport) {
  const jobs = createClient(JobService, transport);
  const submitted = await jobs.submitJob({ job });
  const jobId = submitted.job.id;
  const seen = [];
  for await (const response of jobs.watchJob({ jobId })) {
    for (const event of response.events) seen.push([Number(event.seq), JobState[event.state]]);
    if (seen.length === 1) await jobs.cancelJob({ jobId });
  }
  let error;
  try {
    await jobs.getJob({ jobId: "01920000-0000-7000-8000-000000000000" });
  } catch (thrown) {
    error = ConnectError.from(thrown);
  }
  return { seen, code: Code[error.code], details: error.details.length };
}

const found = {
  json: await submitWatchAndCancel(createConnectTransport({ baseUrl })),
  binary: await submitWatchAndCancel(createConnectTransport({ baseUrl, useBinaryFormat: true })),
  grpcWeb: await submitWatchAndCancel(createGrpcWebTransport({ baseUrl })),
};

// Without a library.
const response = await fetch(`${baseUrl}/v1/jobs?pageSize=1`);
found.fetch = { status: response.status, jobs: (await response.json()).jobs.length };

console.log(JSON.stringify(found));
