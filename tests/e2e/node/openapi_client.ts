import { client } from "./openapi/client.gen.js";
import { cancelJob, getJob, submitJob } from "./openapi/sdk.gen.js";

declare const process: { argv: string[] };

client.setConfig({ baseUrl: process.argv[2] });
const submitted = await submitJob({
  body: { type: "square_sum", payload: { data: [1] } },
  throwOnError: true,
});
const path = { jobId: submitted.data.job!.id! };
const read = await getJob({ path, throwOnError: true });
const cancelled = await cancelJob({ path, body: {}, throwOnError: true });
const missing = await getJob({ path: { jobId: "01920000-0000-7000-8000-000000000000" } });

const found = {
  status: submitted.response.status,
  payload: read.data.payload,
  state: cancelled.data.state,
  error: [missing.response!.status, missing.error!.reason],
};
console.log(JSON.stringify(found));
