/** Translations of the panel's texts, by the English ones. Registers nothing. */
const ZH = {
  steps: "步骤",
  "planning ...": "正在规划……",
  "step {step} of {steps}, {percent}%, windows: {count}": "第 {step}/{steps} 步，{percent}%，窗口：{count}",
  "Play the steps": "播放步骤",
  "Play the steps of the run": "播放运行的步骤",
  "Step of the run": "运行的步骤",
  "Look at a step of the run; 0: the whole tree": "查看运行的某一步；0：整棵树",
  "Connect Load Image, or queue the workflow once.": "请连接“加载图像”，或先运行一次工作流。",
  "This image is computed during the run. Queue the workflow once.":
    "该图像在运行时才会生成。请先运行一次工作流。",
  "{node} is computed during the run. Queue the workflow once.":
    "{node} 在运行时才会计算。请先运行一次工作流。",
  "Reading the image ...": "正在读取图像……",
  "The preview is not available: {reason}": "无法预览：{reason}",
  "of the last run": "来自上次运行",
  "of the last run, seed changed": "来自上次运行，种子已变",
  "An earlier image. Queue the workflow to see the new one and paint on it.":
    "较早的图像。运行工作流后即可查看新图像并在其上绘制。",
  "as the node before shows it": "前一节点显示的图像",
  "of an earlier run, something before this node has changed": "来自较早的运行，之前的节点已有改动",
  "the preview ignores the mask": "预览未计入遮罩",
  "painted on an image of another shape: regions ignored": "绘制时的图像比例不同：已忽略绘制区域",
  "{count} tiles": "{count} 个图块",
  "only the largest {count} are shown": "仅显示最大的 {count} 个",
  "about {percent}% of the full model cost at {steps} steps": "{steps} 步时约为完整模型开销的 {percent}%",
  "about {time}": "约 {time}",
  "assuming {what}": "假定为{what}",
  "a typical run": "典型的运行",
  "a typical model": "典型的模型",
  "a latent of the size of this image": "潜空间图像与此图像同尺寸",
  "20 steps": "20 步",
  "no noise mask": "没有噪声遮罩",
  "every prompt everywhere": "每个提示词处处生效",
  "cost_budget is of a typical run": "cost_budget 按典型的运行计算",
  "but the run would end with an error: {problem}": "但运行会以错误结束：{problem}",
  "as computed": "按计算",
  keep: "保持",
  full: "全部",
  Undo: "撤销",
  Clear: "清除",
  "Undo the last painted change. Keys: Ctrl+Z": "撤销上一次绘制。按键：Ctrl+Z",
  "Remove all painted regions": "清除所有绘制区域",
  "Quadtree preview": "四叉树预览",
  Keep: "保持",
  Value: "数值",
  Full: "全部",
  Erase: "擦除",
  Fill: "填充",
  "Paint tiles": "绘制图块",
  "Opacity of the tiles": "图块的不透明度",
  "Brush size": "笔刷大小",
  "Denoise to paint": "要绘制的降噪",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far":
    "第 {step}/{steps} 步，窗口 {done}/{windows}，目前为完整开销的 {percent}%",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far, about {time} left":
    "第 {step}/{steps} 步，窗口 {done}/{windows}，目前为完整开销的 {percent}%，约剩 {time}",
  "{steps} steps, {percent}% of the full model cost, {kept}% of the latent kept":
    "{steps} 步，完整模型开销的 {percent}%，潜空间图像有 {kept}% 保持不变",
  "{side} px, detail {detail}, {words}": "{side} px，细节 {detail}，{words}",
  "denoise {denoise} ({kind})": "降噪 {denoise}（{kind}）",
  painted: "已绘制",
  tile: "图块",
  size: "大小",
  denoise: "降噪",
  opacity: "不透明度",
  "kept to regenerated": "从保持到重绘",
  "Paint what stays as it is (denoise 0). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "绘制保持不变的区域（降噪 0）。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Paint with the denoise beside it. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "用旁边的降噪值绘制。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Paint what is fully regenerated (denoise 1). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "绘制完全重绘的区域（降噪 1）。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Leave to the tree again; right click does it, too. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "交还给四叉树；也可用右键。按键：{key}。Shift：矩形。Esc：放下工具。",
  "Denoise of the tool Value. Keys: 0-9": "“数值”工具的降噪。按键：0-9",
  "Size of the brush. Keys: [ and ]": "笔刷的大小。按键：[ 和 ]",
  "A click paints all connected tiles of the same denoise. Key: G": "单击即绘制所有相连且降噪相同的图块。按键：G",
  "Tiles of the image. Use the arrow keys to choose a tile, K, V, F or E to take a tool, and Enter to paint the tile with it.":
    "图像的图块。用方向键选择图块，K、V、F 或 E 选择工具，Enter 绘制该图块。",
  "1 tile": "1 个图块",
  "The server rejected the preview ({status}).": "服务器拒绝了预览（{status}）。",
  "The preview failed; the log of ComfyUI says why.": "预览失败；原因见 ComfyUI 的日志。",
  "more than {count} nodes belong to its image and its runs": "与其图像和运行有关的节点超过 {count} 个",
  "sigmas of that many steps": "sigma 的步数与此相同",
  "image must be the name of a file, as Load Image shows it.": "图像必须是“加载图像”中显示的文件名。",
  "This file lies outside of ComfyUI's folders.": "该文件不在 ComfyUI 的文件夹内。",
  "This file is missing. Choose another in the node that loads it.": "找不到该文件。请在加载它的节点中另选一个。",
  "No file is chosen in the node that loads it.": "加载文件的节点中没有选择文件。",
  "This file cannot be read as an image.": "该文件无法作为图像读取。",
  "This file cannot be read as a video.": "该文件无法作为视频读取。",
  "The video has {count} frames of {width} x {height} px, too many for the preview. Queue the workflow once.":
    "视频有 {count} 帧，每帧 {width} x {height} px，对预览来说过多。请先运行一次工作流。",
  "{node} makes {count} images of {width} x {height} px, too large for the preview. Queue the workflow once.":
    "{node} 生成 {count} 张 {width} x {height} px 的图像，对预览来说过大。请先运行一次工作流。",
  "This run's image is no longer kept. Queue the workflow once.": "该次运行的图像已不再保留。请先运行一次工作流。",
  "{node} gives no image. Queue the workflow once.": "{node} 不输出图像。请先运行一次工作流。",
  "{node} cannot be applied before the run: {reason}": "{node} 无法在运行前应用：{reason}",
  "{node} makes an image of {width} x {height} px, too large for the preview. Queue the workflow once.":
    "{node} 生成的图像为 {width} x {height} px，对预览来说过大。请先运行一次工作流。",
  "{node} by {count} px takes too long for the preview. Queue the workflow once.":
    "{node} 扩展 {count} px 对预览来说耗时过长。请先运行一次工作流。",
  "min_tile_size is {smallest} px and max_tile_size {largest} px; min_tile_size must be at least {least} px and at most max_tile_size.":
    "min_tile_size 为 {smallest} px，max_tile_size 为 {largest} px；min_tile_size 不得小于 {least} px，也不得大于 max_tile_size。",
  "min_denoise is {least} and max_denoise {most}; both must lie in 0..1, and min_denoise must not be above max_denoise.":
    "min_denoise 为 {least}，max_denoise 为 {most}；两者都须在 0..1 之内，且 min_denoise 不得大于 max_denoise。",
  "cost_budget is {value}; it must be 0 (off) or a number from {low} to 1.":
    "cost_budget 为 {value}；须为 0（关闭）或 {low} 到 1 之间的数。",
  "{name} is {value}; it must be a number from {low} to {high}.":
    "{name} 为 {value}；须为 {low} 到 {high} 之间的数。",
  "{name} is {value}; it must be a whole number from {low} to {high}.":
    "{name} 为 {value}；须为 {low} 到 {high} 之间的整数。",
  "regions is not valid JSON: {reason}. Clear it, or paint in the panel.":
    "regions 不是有效的 JSON：{reason}。请清空它，或在面板中绘制。",
  "tile_overlap {overlap} px takes {taken} px on this model, more than half of tile_size {size} px; use at most {most} px, or larger tiles.":
    "tile_overlap {overlap} px 在此模型上占 {taken} px，超过 tile_size {size} px 的一半；请至多用 {most} px，或使用更大的图块。",
  "tile_size {size} px is smaller than the {least} px that this model needs; use that or more.":
    "tile_size {size} px 小于此模型所需的 {least} px；请不小于该值。",
  "Coverage of the detail": "细节的覆盖率",
  "How the detail is spread over the tiles. Drag the mark to set coverage.":
    "细节在图块间的分布。拖动标记以设置 coverage。",
  "{percent}% of the detail": "细节的 {percent}%",
  "Frame of the clip": "片段的帧",
  "Look at a frame of the clip": "查看片段的某一帧",
  "frame {number} of {count}": "第 {number}/{count} 帧",
  "of a run with another choice of batch": "来自 batch 取值不同的运行",
  "default settings": "默认设置",
  "only a run computes {names}: the node's own value is shown":
    "{names} 只有运行才能算出：显示的是节点自己的值",
  "tree and price of the first of {count} images": "{count} 张图像中第一张的树和价格",
};
const JA = {
  steps: "ステップ",
  "planning ...": "計画中…",
  "step {step} of {steps}, {percent}%, windows: {count}": "ステップ {step}/{steps}、{percent}%、ウィンドウ：{count}",
  "Play the steps": "ステップを再生",
  "Play the steps of the run": "実行のステップを再生します",
  "Step of the run": "実行のステップ",
  "Look at a step of the run; 0: the whole tree": "実行の 1 ステップを見ます。0：ツリー全体",
  "Connect Load Image, or queue the workflow once.":
    "「画像を読み込む」を接続するか、ワークフローを一度実行してください。",
  "This image is computed during the run. Queue the workflow once.":
    "この画像は実行時に計算されます。ワークフローを一度実行してください。",
  "{node} is computed during the run. Queue the workflow once.":
    "{node} は実行時に計算されます。ワークフローを一度実行してください。",
  "Reading the image ...": "画像を読み込んでいます……",
  "The preview is not available: {reason}": "プレビューを表示できません：{reason}",
  "of the last run": "前回の実行のもの",
  "of the last run, seed changed": "前回の実行のもの（シードは変更済み）",
  "An earlier image. Queue the workflow to see the new one and paint on it.":
    "以前の画像です。ワークフローを実行すると、新しい画像を見て塗れます。",
  "as the node before shows it": "前のノードが表示している画像",
  "of an earlier run, something before this node has changed":
    "以前の実行のもの（このノードより前が変更されています）",
  "the preview ignores the mask": "プレビューはマスクを考慮していません",
  "painted on an image of another shape: regions ignored":
    "別の縦横比の画像に塗られているため、塗った領域を無視しました",
  "{count} tiles": "タイル {count} 個",
  "only the largest {count} are shown": "大きい順に {count} 個のみ表示",
  "about {percent}% of the full model cost at {steps} steps":
    "{steps} ステップでモデルの全コストの約 {percent}%",
  "about {time}": "約 {time}",
  "assuming {what}": "{what}と仮定",
  "a typical run": "標準的な実行",
  "a typical model": "標準的なモデル",
  "a latent of the size of this image": "潜在画像はこの画像と同じ大きさ",
  "20 steps": "20 ステップ",
  "no noise mask": "ノイズマスクなし",
  "every prompt everywhere": "どのプロンプトも全体に効く",
  "cost_budget is of a typical run": "cost_budget は標準的な実行に対する値",
  "but the run would end with an error: {problem}": "ただし実行はエラーで終わります：{problem}",
  "as computed": "計算どおり",
  keep: "維持",
  full: "全体",
  Undo: "元に戻す",
  Clear: "消去",
  "Undo the last painted change. Keys: Ctrl+Z": "最後の塗りを元に戻します。キー：Ctrl+Z",
  "Remove all painted regions": "塗った領域をすべて消します",
  "Quadtree preview": "四分木のプレビュー",
  Keep: "維持",
  Value: "値",
  Full: "全体",
  Erase: "消しゴム",
  Fill: "塗りつぶし",
  "Paint tiles": "タイルを塗る",
  "Opacity of the tiles": "タイルの不透明度",
  "Brush size": "ブラシの大きさ",
  "Denoise to paint": "塗るデノイズ",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far":
    "ステップ {step}/{steps}、ウィンドウ {done}/{windows}、ここまで全コストの {percent}%",
  "step {step}/{steps}, {done} of {windows} windows, {percent}% of full cost so far, about {time} left":
    "ステップ {step}/{steps}、ウィンドウ {done}/{windows}、ここまで全コストの {percent}%、残り約 {time}",
  "{steps} steps, {percent}% of the full model cost, {kept}% of the latent kept":
    "{steps} ステップ、モデルの全コストの {percent}%、潜在画像の {kept}% を維持",
  "{side} px, detail {detail}, {words}": "{side} px、細部 {detail}、{words}",
  "denoise {denoise} ({kind})": "デノイズ {denoise}（{kind}）",
  painted: "塗り",
  tile: "タイル",
  size: "大きさ",
  denoise: "デノイズ",
  opacity: "不透明度",
  "kept to regenerated": "維持から再生成まで",
  "Paint what stays as it is (denoise 0). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "そのまま残す部分を塗ります（デノイズ 0）。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Paint with the denoise beside it. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "横のデノイズで塗ります。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Paint what is fully regenerated (denoise 1). Key: {key}. Shift: a rectangle. Esc: no tool.":
    "完全に作り直す部分を塗ります（デノイズ 1）。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Leave to the tree again; right click does it, too. Key: {key}. Shift: a rectangle. Esc: no tool.":
    "木に戻します。右クリックでもできます。キー：{key}。Shift：長方形。Esc：ツールを戻す。",
  "Denoise of the tool Value. Keys: 0-9": "ツール「値」のデノイズ。キー：0-9",
  "Size of the brush. Keys: [ and ]": "ブラシの大きさ。キー：[ と ]",
  "A click paints all connected tiles of the same denoise. Key: G":
    "クリックすると、つながった同じデノイズのタイルをすべて塗ります。キー：G",
  "Tiles of the image. Use the arrow keys to choose a tile, K, V, F or E to take a tool, and Enter to paint the tile with it.":
    "画像のタイルです。矢印キーでタイルを選び、K、V、F、E でツールを選び、Enter で塗ります。",
  "1 tile": "タイル 1 個",
  "The server rejected the preview ({status}).": "サーバーがプレビューを拒否しました（{status}）。",
  "The preview failed; the log of ComfyUI says why.": "プレビューに失敗しました。原因は ComfyUI のログにあります。",
  "more than {count} nodes belong to its image and its runs": "画像と実行に関わるノードが {count} 個を超えています",
  "sigmas of that many steps": "シグマが同じステップ数",
  "image must be the name of a file, as Load Image shows it.": "画像は「画像を読み込む」が示すファイル名でなければなりません。",
  "This file lies outside of ComfyUI's folders.": "このファイルは ComfyUI のフォルダーの外にあります。",
  "This file is missing. Choose another in the node that loads it.":
    "ファイルがありません。読み込むノードで別のものを選んでください。",
  "No file is chosen in the node that loads it.": "読み込むノードでファイルが選ばれていません。",
  "This file cannot be read as an image.": "このファイルは画像として読み込めません。",
  "This file cannot be read as a video.": "このファイルは動画として読み込めません。",
  "The video has {count} frames of {width} x {height} px, too many for the preview. Queue the workflow once.":
    "動画は {width} x {height} px のフレームが {count} 枚あり、プレビューには多すぎます。ワークフローを一度実行してください。",
  "{node} makes {count} images of {width} x {height} px, too large for the preview. Queue the workflow once.":
    "{node} が作る {width} x {height} px の画像 {count} 枚は、プレビューには大きすぎます。ワークフローを一度実行してください。",
  "This run's image is no longer kept. Queue the workflow once.":
    "この実行の画像はもう保持されていません。ワークフローを一度実行してください。",
  "{node} gives no image. Queue the workflow once.": "{node} は画像を出力しません。ワークフローを一度実行してください。",
  "{node} cannot be applied before the run: {reason}": "{node} は実行前に適用できません：{reason}",
  "{node} makes an image of {width} x {height} px, too large for the preview. Queue the workflow once.":
    "{node} が作る {width} x {height} px の画像は、プレビューには大きすぎます。ワークフローを一度実行してください。",
  "{node} by {count} px takes too long for the preview. Queue the workflow once.":
    "{node} の {count} px はプレビューには時間がかかりすぎます。ワークフローを一度実行してください。",
  "min_tile_size is {smallest} px and max_tile_size {largest} px; min_tile_size must be at least {least} px and at most max_tile_size.":
    "min_tile_size は {smallest} px、max_tile_size は {largest} px です。min_tile_size は {least} px 以上、max_tile_size 以下でなければなりません。",
  "min_denoise is {least} and max_denoise {most}; both must lie in 0..1, and min_denoise must not be above max_denoise.":
    "min_denoise は {least}、max_denoise は {most} です。どちらも 0..1 で、min_denoise は max_denoise 以下でなければなりません。",
  "cost_budget is {value}; it must be 0 (off) or a number from {low} to 1.":
    "cost_budget は {value} です。0（オフ）か、{low} から 1 までの数でなければなりません。",
  "{name} is {value}; it must be a number from {low} to {high}.":
    "{name} は {value} です。{low} から {high} までの数でなければなりません。",
  "{name} is {value}; it must be a whole number from {low} to {high}.":
    "{name} は {value} です。{low} から {high} までの整数でなければなりません。",
  "regions is not valid JSON: {reason}. Clear it, or paint in the panel.":
    "regions は正しい JSON ではありません：{reason}。消去するか、パネルで塗ってください。",
  "tile_overlap {overlap} px takes {taken} px on this model, more than half of tile_size {size} px; use at most {most} px, or larger tiles.":
    "tile_overlap {overlap} px はこのモデルでは {taken} px になり、tile_size {size} px の半分を超えます。{most} px 以下にするか、タイルを大きくしてください。",
  "tile_size {size} px is smaller than the {least} px that this model needs; use that or more.":
    "tile_size {size} px はこのモデルに必要な {least} px より小さいです。それ以上にしてください。",
  "Coverage of the detail": "細部のカバー率",
  "How the detail is spread over the tiles. Drag the mark to set coverage.":
    "タイルごとの細部の分布。印をドラッグすると coverage が変わります。",
  "{percent}% of the detail": "細部の {percent}%",
  "Frame of the clip": "クリップのフレーム",
  "Look at a frame of the clip": "クリップの 1 フレームを見ます",
  "frame {number} of {count}": "フレーム {number}/{count}",
  "of a run with another choice of batch": "batch の選択が異なる実行のもの",
  "default settings": "既定の設定",
  "only a run computes {names}: the node's own value is shown":
    "{names} は実行しないと分からないため、ノード自身の値を表示しています",
  "tree and price of the first of {count} images": "{count} 枚の画像のうち最初のものの木と価格",
};
export const TABLES = { zh: ZH, ja: JA };
